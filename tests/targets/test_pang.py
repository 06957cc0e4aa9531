"""Tables and figures of Pang et al.: their own numbers, cell by cell, and no other."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from pandas import DataFrame

from rectify import targets
from rectify.analysis.cells import without_paper
from rectify.analysis.latex import to_latex
from rectify.analysis.printing import NO_CELL, to_markdown
from rectify.analysis.published import Label
from rectify.analysis.published import printed as printed_cells
from rectify.results.tables import write_table
from tests.helpers import printed, synthetic
from tests.helpers.printed import INSERTED, LONG, SHORT, SSV2, exactly, pang
from tests.helpers.synthetic import LLAMA, VITS, Model, Run

TABLES = [
    f"pang_table{name}" for name in ("1", "2", "3", "5a_retrieval", "6", "_a", "_b", "_c", "_d")
]
OTHER = Model("llama-13b", "LLaMA-13B", 1.3e10)


def table(name: str, root: Path, runs: list[Run], **labels: object) -> DataFrame:
    target = targets.module_of(name)
    return target.table(synthetic.collected(root, runs, **labels), target.Settings(reads="any"))


@pytest.fixture(scope="module")
def printed_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], DataFrame]:
    """A function that returns a table of the runs that the paper prints; only to be read."""
    return functools.cache(lambda name: table(name, tmp_path_factory.mktemp(name), pang(name)))


def gained(name: str) -> dict[tuple[str, str], float]:
    """Return what each printed row gains over the one without an insertion; errors are less."""
    theirs = printed_cells(name)
    return {
        (cell.row.name, f"{cell.column}"): (cell.value - theirs.cell(plain, cell.column).value)
        * (-1 if cell.column.group.startswith("Argoverse") else 1)
        for cell in theirs.cells
        if (plain := Label(cell.row.name.split(" +")[0])) != cell.row
    }


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.slow
def test_it_prints_the_paper_cell_by_cell(
    name: str, printed_runs: Callable[[str], DataFrame]
) -> None:
    cells = printed_runs(name)
    values = cells[(cells["kind"] == "value") & (cells["seeds"] > 0)]
    values = values.set_index(["paper_row", "paper_column"])
    theirs = printed_cells(name).cells
    assert values["paper"].notna().sum() == len(theirs)
    for cell in theirs:
        row = values.loc[(cell.row.name, f"{cell.column}")]
        assert (row["paper"], row["unit"]) == (cell.value, cell.unit)
        assert row["mean"] == pytest.approx(cell.value)
        assert row["difference"] == pytest.approx(0, abs=1e-9)
    gains = cells[cells["kind"] == "gain"].set_index(["paper_row", "paper_column"])
    expected = gained(name)
    assert gains["paper"].notna().sum() == len(expected)
    for place, value in expected.items():
        assert gains.loc[place, "paper"] == pytest.approx(value)
        assert gains.loc[place, "mean"] == pytest.approx(value)
        assert gains.loc[place, "unit"] == ("m" if "min" in place[1] else "points")


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    "changed", [{"data": printed.BAR}, {"language": OTHER}, {"layer": 5}], ids=str
)
def test_other_data_models_and_layers_are_not_compared(
    name: str, changed: dict[str, object], tmp_path: Path
) -> None:
    first, *others = [run for run in pang(name) if run.layer != "30-31"]
    others = [run for run in others if run.data is first.data]
    if name == "pang_table_c" and "language" in changed:
        others = others[:1]  # they differ in nothing else
    runs = [
        dataclasses.replace(run, **changed) if run.language or "data" in changed else run
        for run in (first, *others)
    ]
    cells = table(name, tmp_path, runs)
    if name == "pang_table2":
        cells = cells[cells["seeds"] > 0]
    alone = ["ViT-T", "ViT-S", "ViT-B", "Point-BERT", "METER", "vanilla"]
    treated = cells[~cells["row"].isin(alone)]
    assert len(treated)
    assert treated["paper"].isna().all()
    vanilla = cells[cells["row"].isin(["ViT-S", "Point-BERT", "METER", "vanilla"])]
    assert vanilla["paper"].isna().all() == ("data" in changed)


def test_clips_are_compared_with_either_reading_of_the_layer(tmp_path: Path) -> None:
    runs = pang("pang_table3")
    runs += [dataclasses.replace(run, layer=15) for run in runs if run.layer == 31]
    cells = table("pang_table3", tmp_path, runs)
    rows = cells.drop_duplicates("row").set_index("row")["paper_row"].to_dict()
    assert rows == {
        "ViT-S": "ViT-S",
        "ViT-S +LLaMA-7B, layer 15": "ViT-S +LLaMA",
        "ViT-S +LLaMA-7B, layer 31": "ViT-S +LLaMA",
        "ViT-B": "ViT-B",
        "ViT-B +LLaMA-7B, layer 15": "ViT-B +LLaMA",
        "ViT-B +LLaMA-7B, layer 31": "ViT-B +LLaMA",
    }


@pytest.mark.slow
def test_rows_say_what_is_inserted_and_where(printed_runs: Callable[[str], DataFrame]) -> None:
    rows = {name: printed_runs(name)["row"].unique() for name in TABLES}
    assert list(rows["pang_table6"]) == [
        "ViT-S",
        "ViT-S +LLaMA-7B",
        "ViT-S, pretrained layer, trained",
        "ViT-S, MLP of the adapters' size",
    ]
    assert list(rows["pang_table_d"]) == [
        "ViT-S",
        "ViT-S +LLaMA-7B, layers 30-31, end",
        "ViT-S +LLaMA-7B, layer 31, early",
        "ViT-S +LLaMA-7B, layer 31, middle",
        "ViT-S +LLaMA-7B, layer 31, end",
    ]
    assert list(rows["pang_table_b"]) == [
        "vanilla",
        "frozen layer",
        "random layer, trained",
        "MLP of the adapters' size",
    ]
    assert rows["pang_table_c"][1] == "ViT-S +OPT-125M"


@pytest.mark.parametrize("name", ["pang_table6", "pang_table_b", "pang_table_d"])
@pytest.mark.slow
def test_a_skip_is_a_row_of_its_own_that_no_paper_has(
    name: str, printed_runs: Callable[[str], DataFrame], tmp_path: Path
) -> None:
    runs = pang(name)
    skipped = [
        dataclasses.replace(run, variant="residual", **exactly({"test": 12.5}))
        for run in runs
        if run.control == "frozen" and run.language and run.layer == 31
    ]
    before = printed_runs(name)
    cells = table(name, tmp_path, [*runs, *skipped])
    added = cells[cells["row"].str.contains("with a skip", regex=False)]
    assert added["row"].nunique() == (3 if name == "pang_table_d" else 1)
    assert added["paper"].isna().all()
    top1 = added[(added["kind"] == "value") & (added["column"] == "acc@1")]
    assert top1["mean"].tolist() == pytest.approx([12.5] * len(top1))
    assert len(top1)
    others = cells[~cells.index.isin(added.index)]
    columns = ["row", "group", "column", "kind", "mean", "paper", "paper_row"]
    one, other = (  # Holm's p values depend on how many tests there are
        frame.loc[frame["kind"] != "item test, Holm", columns].reset_index(drop=True)
        for frame in (others, before)
    )
    assert one.equals(other)


@pytest.mark.slow
def test_table_b_has_columns_for_each_task(printed_runs: Callable[[str], DataFrame]) -> None:
    cells = printed_runs("pang_table_b").drop_duplicates("column_index")
    assert list(zip(cells["group"], cells["column"], strict=True)) == [
        (f"{data}, {model}", f"acc@{k}")
        for data, model in (
            ("ImageNet, 300 epochs", "ViT-S"),
            ("Something-Something-v2", "ViT-S"),
            *((data.title, "Point-BERT") for data in printed.CLOUDS[:3]),
        )
        for k in (1, 5)
    ] + [
        ("Argoverse, mmTransformer", f"{name}{best}")
        for name in ("minADE", "minFDE", "MR")
        for best in ("", ", 6 best")
    ] + [("Flickr30k, METER", f"recall@{k}") for k in (1, 5, 10)]


@pytest.mark.slow
def test_table_b_counts_what_the_frozen_layer_gains_and_no_control(
    printed_runs: Callable[[str], DataFrame],
) -> None:
    cells = printed_runs("pang_table_b")
    points = [
        value
        for (row, column), value in gained("pang_table_b").items()
        if row.endswith("+LLaMA") and column.endswith(("acc@1", "recall@1"))
    ]
    assert (len(points), min(points) > 0) == (6, True)
    assert cells["row"].nunique() == 4
    (found,) = targets.module_of("pang_table_b").findings(cells, None)
    assert found.found.startswith("6 of 7 gain")  # that of the most likely forecast is 0
    assert f"{min(points):+.2f} (frozen layer, " in found.found
    assert f"{max(points):+.2f} (frozen layer, " in found.found


@pytest.mark.slow
def test_table_2_ends_with_what_public_models_reach(
    printed_runs: Callable[[str], DataFrame],
) -> None:
    cells = printed_runs("pang_table2")
    public = cells[cells["seeds"] == 0]
    assert public["row"].unique().tolist() == [
        "Point-BERT, voted ten times, as its authors have it",
        "Point-BERT +LLaMA, as released",
        "Point-MAE, as its authors have it",
    ]
    theirs = {
        (c.row.name, f"{c.column}"): c.value for c in printed_cells("pang_table2_public").cells
    }
    ours = {(c["paper_row"], c["paper_column"]): c["paper"] for _, c in public.iterrows()}
    assert ours == theirs
    assert public["mean"].isna().all()
    assert public["row_index"].min() > cells.loc[cells["seeds"] > 0, "row_index"].max()
    for _, cell in public.iterrows():  # in the column of its data set
        head = cells[(cells["column_index"] == cell["column_index"]) & (cells["seeds"] > 0)]
        assert set(head["group"]) == {cell["group"]} == {cell["paper_column"].partition(":")[0]}
    text = to_markdown(cells)
    line = next(line for line in text.splitlines() if "Point-MAE" in line)
    assert f"{NO_CELL}<br>*paper 90.02*" in line
    assert "nan" not in text + to_latex(cells, caption="", name="")
    assert len(without_paper(cells)) == len(cells) - len(public)


def test_public_models_are_shown_only_on_their_own_data(tmp_path: Path) -> None:
    runs = [
        dataclasses.replace(run, data=Model("solids", "Solids", 0))
        for run in pang("pang_table2")[::6]
    ]
    cells = table("pang_table2", tmp_path, runs)
    assert (cells["seeds"] > 0).all()
    assert cells["paper"].isna().all()


def test_the_gains_of_the_papers_quote_each_other() -> None:
    quoted = printed_cells("table2")
    for column in quoted.columns:
        name = column.name.removeprefix("+").replace("Opt", "OPT")
        ours = printed_cells("pang_table_c").cell(
            Label(f"ViT-S +{name}"), Label("acc@1", "ImageNet, 100 epochs")
        )
        assert ours.value == quoted.cell(Label("ViT-S"), column).value


def test_without_insertions_a_table_is_an_error(tmp_path: Path) -> None:
    runs = [Run(LONG, VITS["ViT-S"], **exactly({"test": 80.1}))]
    for name in TABLES:
        with pytest.raises(ValueError, match=f"{name}: there must be runs of variant insert"):
            table(name, tmp_path / name, runs)


def layers_runs(seeds: float = 0.0) -> list[Run]:
    opt = Model("opt-6.7b", "OPT-6.7B", 6.7e9)
    runs = [Run(SHORT, VITS["ViT-S"], lambda seed, _: 0.75 + seed / 100, lambda *_: 1e-3)]
    for shift, language in ((0.0, LLAMA), (0.02, opt)):
        runs += [
            Run(
                SHORT, VITS["ViT-S"],
                lambda seed, _, top=0.7 + shift + layer / 1000: top + seed / 100,
                lambda *_: 1e-3, **{**INSERTED, "language": language, "layer": layer},
            )
            for layer in (31, 0, 15)
        ]  # fmt: skip
    return runs


def drawn(name: str, root: Path, runs: list[Run]) -> tuple[object, DataFrame]:
    target = targets.module_of(name)
    results = synthetic.collected(root, runs, seeds=(0, 1))
    made = target.figure(results, target.Settings(reads="any"))
    write_table(target.VALUES, made.values, root / "values.csv", synthetic.SOURCE)
    return made.figure, made.values


def test_figure_2_has_a_line_for_each_language_model(tmp_path: Path) -> None:
    figure, values = drawn("pang_figure2", tmp_path, layers_runs())
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert lines["LLaMA-7B"].get_xdata().tolist() == [0, 15, 31]
    assert lines["LLaMA-7B"].get_ydata() == pytest.approx([70.5, 72.0, 73.6])
    assert lines["OPT-6.7B"].get_ydata() == pytest.approx([72.5, 74.0, 75.6])
    assert lines["vanilla"].get_ydata() == pytest.approx([75.5] * 2)
    assert len(values) == 2 * 3 * 2
    assert values["vanilla"].tolist() == pytest.approx([75, 76] * 6)


@pytest.mark.slow
def test_figure_2_shows_one_place_and_single_layers(tmp_path: Path) -> None:
    runs = layers_runs()
    other = dataclasses.replace(runs[1], position="early")
    with pytest.raises(ValueError, match="pang_figure2: all runs must have the same position"):
        drawn("pang_figure2", tmp_path / "a", [*runs, other])
    two = dataclasses.replace(runs[1], layer="30-31")
    with pytest.raises(ValueError, match="each run must have one layer, got layers 30-31"):
        drawn("pang_figure2", tmp_path / "b", [*runs, two])


def test_figure_f_shows_both_losses_of_each_run(tmp_path: Path) -> None:
    runs = [run for run in pang("pang_table1") if run.vision is not VITS["ViT-B"]]
    figure, values = drawn("pang_figure_f", tmp_path, runs)
    assert [axes.get_title() for axes in figure.axes] == ["ViT-T", "ViT-S"]
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    inserted = "LLaMA-7B layer 31, end"
    assert lines["vanilla: test"].get_ydata() == pytest.approx([2.475, 1.975])
    assert lines[f"{inserted}: training"].get_ydata() == pytest.approx([2.95, 1.95])
    assert lines[f"{inserted}: training"].get_linestyle() == "--"
    assert len(values) == 4 * 2 * 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "vanilla: test", "vanilla: training", f"{inserted}: test", f"{inserted}: training",
    ]  # fmt: skip


def test_figure_f_needs_the_frozen_block_alone() -> None:
    target = targets.module_of("pang_figure_f")
    runs = [dataclasses.replace(run) for run in pang("pang_table6")]
    kept = target.needs(target.Settings(reads="any"), runs)
    assert [(run.variant, run.control) for run in kept] == [
        ("vanilla", "frozen"), ("insert", "frozen"),
    ]  # fmt: skip


def test_losses_on_two_data_sets_are_an_error(tmp_path: Path) -> None:
    runs = [Run(data, VITS["ViT-S"], **exactly({})) for data in (LONG, SSV2)]
    with pytest.raises(ValueError, match="pang_figure_f: all runs must have the same data"):
        drawn("pang_figure_f", tmp_path, runs)
