"""Table 3: the paper's own numbers, the same layers only, and its heat map."""

import dataclasses
from pathlib import Path

import pytest

from rectify.analysis.collect import Results
from rectify.targets.table3 import Settings, figure, table
from tests.helpers import printed, synthetic
from tests.helpers.printed import CIFAR, INSERTED, exactly
from tests.helpers.synthetic import VITS, Run, results_of, seeded

ASKED = Settings(reads="grid")
VANILLA = Run(CIFAR, VITS["ViT-S"], **exactly({"test": 71.62}))
OTHER = synthetic.Model("llama-13b", "LLaMA-13B", 1.3e10)


@pytest.fixture(scope="module")
def grid(demo: synthetic.Made) -> Results:
    """Return the grid of the made-up demo, with its vanilla run."""
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith(("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl"))
    ]  # fmt: skip
    return Results(folders, [0, 1])


@pytest.mark.slow
def test_it_prints_the_paper(tmp_path: Path) -> None:
    cells = table(synthetic.collected(tmp_path, printed.grid()), ASKED)
    printed.check_as_printed("table3", cells)
    assert cells["row"].unique().tolist() == ["Vanilla", "Early", "Middle", "End"]
    assert cells["group"].unique().tolist() == ["acc@1 (%), layer"]


@pytest.mark.slow
def test_the_vanilla_run_is_in_each_column_and_has_no_gain(grid: Results) -> None:
    cells = table(grid, ASKED)
    vanilla = cells[cells["row"] == "Vanilla"]
    assert vanilla["kind"].unique().tolist() == ["value"]
    assert vanilla["column"].tolist() == cells["column"].unique().tolist()
    runs = grid.runs.set_index(["run", "seed"])["accuracy"]
    expected = 100 * runs["glyphs_vit-s_vanilla"]
    assert vanilla["mean"].tolist() == pytest.approx([expected.mean()] * len(vanilla))
    assert vanilla["std"].tolist() == pytest.approx([expected.std()] * len(vanilla))
    gains = cells[cells["kind"] == "gain"].set_index(["row", "column"])["mean"]
    values = cells[cells["kind"] == "value"].set_index(["row", "column"])["mean"]
    for (row, column), gain in gains.items():
        assert gain == pytest.approx(values[row, column] - values["Vanilla", column])


def test_layers_of_the_paper_s_model_are_compared_with_the_same_layers_only(tmp_path: Path) -> None:
    runs = [
        Run(CIFAR, VITS["ViT-S"], **exactly({"test": top1}), **{**INSERTED, "layer": layer})
        for layer, top1 in ((8, 70.0), (31, 74.14))
    ]
    cells = table(synthetic.collected(tmp_path, [VANILLA, *runs]), ASKED)
    values = cells[cells["kind"] == "value"]
    values = values[values["row"] != "Vanilla"]
    assert values["paper_column"].tolist() == ["-", "31"]
    printed.check_all_compared(values.iloc[1:], 1)


def test_each_cell_has_its_gain_over_vanilla_and_the_test_over_the_items(grid: Results) -> None:
    cells = table(grid, ASKED).set_index(["row", "column", "kind"])
    accuracies = grid.runs.set_index(["run", "seed"])["accuracy"]
    ours = accuracies["glyphs_vit-s_insert_llama-xl_layer-7_end"]
    expected = 100 * (ours - accuracies["glyphs_vit-s_vanilla"])
    gain = cells.loc[("End", "7", "gain")]
    assert gain["mean"] == pytest.approx(expected.mean())
    assert gain["std"] == pytest.approx(expected.std())
    assert gain["seeds"] == 2
    assert 0 < cells.loc[("End", "7", "item test"), "mean"] <= 1


def test_another_model_is_not_compared(grid: Results) -> None:
    cells = table(grid, ASKED)
    assert cells["kind"].value_counts().to_dict() == {
        "value": 20,
        "gain": 15,
        "item test": 15,
        "item test, Holm": 15,
    }
    assert cells["paper"].isna().all()


@pytest.mark.parametrize(
    "changed", [{"vision": VITS["ViT-T"]}, {"data": printed.BAR}, {"language": OTHER}]
)
@pytest.mark.slow
def test_vit_data_and_language_model_must_all_be_the_papers(
    tmp_path: Path, changed: dict[str, synthetic.Model]
) -> None:
    runs = [dataclasses.replace(run, **changed) for run in printed.grid()]
    assert table(synthetic.collected(tmp_path, runs), ASKED)["paper"].isna().all()


def test_positions_by_number_are_rows_that_the_paper_lacks(tmp_path: Path) -> None:
    runs = [
        Run(CIFAR, VITS["ViT-S"], **exactly({"test": 70.0}), **{**INSERTED, "position": position})
        for position in ("end", "9", "middle")
    ]
    cells = table(synthetic.collected(tmp_path, [VANILLA, *runs]), ASKED)
    values = cells[(cells["kind"] == "value") & (cells["row"] != "Vanilla")]
    assert values["row"].tolist() == ["Middle", "After 9", "End"]
    assert values["paper_row"].tolist() == ["Middle", "-", "End"]


def test_two_runs_for_one_cell_are_an_error() -> None:
    twice = seeded(vanilla=[0.5], insert=[0.5], random=[0.6])
    with pytest.raises(ValueError, match="table3: a cell must show one run, got insert and random"):
        table(results_of(runs=twice), ASKED)


def test_insertions_with_and_without_a_skip_are_an_error() -> None:
    runs = seeded(vanilla=[0.5], insert=[0.6], residual=[0.6])
    runs.loc[runs["variant"] == "residual", "layer"] = 5.0
    for show in (table, figure):
        with pytest.raises(ValueError, match="table3: all runs must have the same variant, got in"):
            show(results_of(runs=runs), ASKED)


def test_no_runs_are_an_error_in_one_line() -> None:
    with pytest.raises(ValueError, match="table3: there must be runs of variant insert") as error:
        table(Results(), ASKED)
    assert "\n" not in f"{error.value}"


def test_the_heat_map_shows_what_it_saves(grid: Results) -> None:
    drawn = figure(grid, ASKED)
    axes = drawn.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Early", "Middle", "End"]
    means = drawn.values.set_index(["position", "layer"])["mean"]
    assert axes.get_images()[0].get_array()[2, 4] == means["end", 7]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(4, 2)].startswith(f"{means['end', 7]:.2f}\n±")
    vanilla = grid.runs[grid.runs["variant"] == "vanilla"]["accuracy"].mean()
    assert f"vanilla {100 * vanilla:.2f}" in axes.get_title()


def test_table_and_heat_map_have_the_same_numbers(grid: Results) -> None:
    values = figure(grid, ASKED).values
    cells = table(grid, ASKED).query("kind == 'value'").set_index(["row", "column"])["mean"]
    for row in values.itertuples(index=False):
        assert cells[row.position.capitalize(), f"{row.layer}"] == pytest.approx(row.mean)
