"""Coherence against results: each run a point, correlations over all and within positions."""

import numpy as np
import pytest
from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.printing import to_markdown
from rectify.targets.coherence import Settings, figure, table
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="grid")
VANILLA = "glyphs_vit-s_vanilla"
LATE = "glyphs_vit-s_insert_llama-xl_layer-5_end"  # its loss is above all of vanilla's
SUMS = ("signal", "noise", "agreement")


@pytest.fixture(scope="module")
def grid(demo: synthetic.Made) -> Results:
    """Return the grid and controls with vanilla, sums and losses that differ between runs."""
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith((VANILLA, "glyphs_vit-s_insert"))
        and "opt" not in folder.name
    ]  # fmt: skip
    read = synthetic.compared([], folders)
    draws = np.random.default_rng(0)
    runs = read.runs.assign(main_loss=draws.normal(1.0, 0.1, len(read.runs)))
    gsnr = read.gsnr.copy()
    keys = gsnr.groupby(["run", "seed", "epoch", "block"]).ngroup()  # the same for all estimators
    for name in SUMS:
        gsnr[name] = draws.uniform(1, 2, keys.max() + 1)[keys]
    shifts = {run: draws.normal(0, 0.2) for run in gsnr["run"].unique()}
    gsnr["main_loss"] += gsnr["run"].map(shifts | {VANILLA: 0.0, LATE: 100.0})
    return results_of(runs=runs, gsnr=gsnr)


@pytest.fixture(scope="module")
def cells(grid: Results) -> DataFrame:
    """Return the table of the grid."""
    return table(grid, ASKED)


@pytest.fixture(scope="module")
def drawn(grid: Results) -> Drawn:
    """Return the figure of the grid."""
    return figure(grid, ASKED)


def by_loop(gsnr: DataFrame, runs: DataFrame, power: int = 1) -> DataFrame:
    """Return the gains of each run by loops over seeds and epochs, means over seeds.

    Compared are the mean's values to a power.
    """
    accuracy, test, train = (
        runs.set_index(["run", "seed"])[name] for name in ("accuracy", "test_loss", "main_loss")
    )
    value, loss = (
        gsnr.groupby(["run", "seed", "epoch"])[name].mean() for name in ("gsnr", "main_loss")
    )
    rows = {}
    for run in runs["run"].unique():
        if run == VANILLA:
            continue
        gains = []
        for seed in (0, 1):
            ours, vanilla = (run, seed), (VANILLA, seed)
            points = sorted(zip(loss[vanilla], value[vanilla], strict=True))
            inside = [
                (our_value, np.interp(our_loss, *zip(*points, strict=True)))
                for our_loss, our_value in zip(loss[ours], value[ours], strict=True)
                if points[0][0] <= our_loss <= points[-1][0]
            ]
            own, base = np.mean(inside, axis=0) if inside else (np.nan, np.nan)
            gains.append((
                np.mean(value[ours]) ** power - np.mean(value[vanilla]) ** power,
                own**power - base**power,
                100 * (accuracy[ours] - accuracy[vanilla]),
                (test[vanilla] - train[vanilla]) - (test[ours] - train[ours]),
            ))  # fmt: skip
        rows[run] = np.mean(gains, axis=0)
    names = ["equal_epoch", "equal_loss", "test_gain", "gap_gain"]
    return DataFrame.from_dict(rows, orient="index", columns=names)


def position_of(runs: DataFrame) -> Series:
    return runs.groupby("run")["position"].first()


MEASURES = {
    "GSNR (plain)": lambda rows: rows["gsnr"],
    "gradient norm": lambda rows: np.sqrt(rows["signal"]),
    "noise scale": lambda rows: (
        rows["agreement"] / (rows["signal"] + rows["noise"] - rows["agreement"])
    ),
    "coherence": lambda rows: rows["signal"] / (rows["signal"] + rows["noise"]),
    "cosine": lambda rows: rows["agreement"] / (rows["signal"] + rows["noise"]),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.slow
def test_each_correlation_is_that_of_gains_by_loop(
    grid: Results, cells: DataFrame, measure: str
) -> None:
    cells = cells[cells["kind"] == "value"].set_index(["row", "group", "column"])["mean"]
    plain = grid.gsnr[grid.gsnr["estimator"] == "plain"]
    power = -1 if measure == "noise scale" else 1
    points = by_loop(plain.assign(gsnr=MEASURES[measure](plain)), grid.runs, power)
    for group, side in (("equal epoch", "equal_epoch"), ("equal loss", "equal_loss")):
        rows = points.dropna(subset=[side])
        assert len(rows) == 19 - (side == "equal_loss")  # 15 places and four controls
        places = position_of(grid.runs)[rows.index]
        for column, result in (("test gain", "test_gain"), ("gap", "gap_gain")):
            pooled = np.corrcoef(rows[side].rank(), rows[result].rank())[0, 1]
            assert cells[measure, group, column] == pytest.approx(pooled)
            ranks = rows[[side, result]].groupby(places).rank()
            centred = ranks - ranks.groupby(places).transform("mean")
            within = np.corrcoef(centred[side], centred[result])[0, 1]
            assert cells[measure, group, f"{column} within positions"] == pytest.approx(within)


def test_every_correlation_has_its_p_value_and_the_seeds(cells: DataFrame) -> None:
    assert cells["row"].unique().tolist() == [
        "GSNR (plain)", "GSNR (debiased)", "gradient norm", "noise scale", "coherence", "cosine",
    ]  # fmt: skip
    assert len(cells) == 6 * 8 * 2
    values, ps = cells[cells["kind"] == "value"], cells[cells["kind"] == "p"]
    assert (len(values), set(values["unit"]), set(ps["unit"])) == (48, {"rho"}, {"-"})
    assert values["mean"].between(-1, 1).all()
    assert ps["mean"].between(0, 1).all()
    assert (cells["seeds"] == 2).all()


@pytest.mark.slow
def test_the_shown_estimator_is_a_row_once(grid: Results) -> None:
    shown = Results(estimator="debiased")
    shown.__dict__.update(runs=grid.runs, gsnr=grid.gsnr)
    rows = table(shown, ASKED)["row"].unique().tolist()
    assert rows[:2] == ["GSNR (debiased)", "gradient norm"]


def test_the_figure_has_a_point_for_each_run_by_position(grid: Results, drawn: Drawn) -> None:
    values = drawn.values.set_index("run")
    expected = by_loop(grid.gsnr[grid.gsnr["estimator"] == "plain"], grid.runs)
    assert values.loc[expected.index, expected.columns].to_numpy() == pytest.approx(
        expected.to_numpy(), nan_ok=True
    )
    assert values.index[values["equal_loss"].isna()].tolist() == [LATE]
    assert set(values["control"]) > {"frozen", "mlp"}
    sides = [(x, y) for y in ("test_gain", "gap_gain") for x in ("equal_epoch", "equal_loss")]
    for axes, side in zip(drawn.figure.axes, sides, strict=True):
        points = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
        for position in ("early", "middle", "end"):
            rows = values[values["position"] == position][list(side)]
            assert np.array_equal(points[position], rows, equal_nan=True)


def test_each_panel_says_its_correlations_and_points(cells: DataFrame, drawn: Drawn) -> None:
    rho = cells[(cells["row"] == "GSNR (plain)") & (cells["kind"] == "value")]["mean"].tolist()
    titles = [axes.get_title() for axes in drawn.figure.axes]
    for title, (pooled, within), n in zip(
        titles, ((rho[0], rho[1]), (rho[4], rho[5]), (rho[2], rho[3]), (rho[6], rho[7])),
        (19, 18, 19, 18), strict=True,
    ):  # fmt: skip
        first, second = title.split("\n")
        assert first.startswith(f"all: ρ = {pooled:.2f}, p ")
        assert first.endswith(f", n = {n}")
        assert second.startswith(f"within positions: ρ = {within:.2f}, p ")


def test_no_text_of_the_figure_covers_another(drawn: Drawn) -> None:
    drawn.figure.draw_without_rendering()
    texts = []
    for axes in drawn.figure.axes:
        low, high = axes.get_xlim()  # ticks outside are not drawn
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        shown = [label for tick, label in ticks if low <= tick <= high]
        assert len(shown) > 2
        texts += [axes.title, axes.xaxis.label, *shown]
    boxes = [text.get_window_extent() for text in texts]
    covering = [
        (texts[i].get_text(), texts[j].get_text())
        for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])
    ]  # fmt: skip
    assert covering == []


def only_runs(grid: Results, *names: str) -> Results:
    chosen = {
        name: frame[frame["run"].isin([VANILLA, *names])]
        for name, frame in (("runs", grid.runs), ("gsnr", grid.gsnr))
    }
    return results_of(**chosen)


def test_two_runs_are_points_without_a_correlation(grid: Results) -> None:
    names = [f"glyphs_vit-s_insert_llama-xl_layer-0_{place}" for place in ("early", "end")]
    two = only_runs(grid, *names)
    drawn = figure(two, ASKED)
    assert len(drawn.values) == 2
    title = "all: no correlation, n = 2\nwithin positions: no correlation"
    assert {axes.get_title() for axes in drawn.figure.axes} == {title}
    cells = table(two, ASKED)
    assert cells["mean"].isna().all()
    assert set(cells["text"]) == {"too few runs"}
    assert "| too few runs" in to_markdown(cells)


def test_runs_at_as_many_positions_have_no_correlation_within_them(grid: Results) -> None:
    places = ("early", "middle", "end")
    names = [f"glyphs_vit-s_insert_llama-xl_layer-0_{place}" for place in places]
    cells = table(only_runs(grid, *names), ASKED)
    assert set(cells[cells["mean"].notna()]["column"]) == {"test gain", "gap"}
    assert set(cells[cells["mean"].isna()]["text"]) == {"too few runs"}


@pytest.mark.slow
def test_runs_with_a_skip_are_compared_among_themselves_within_positions(grid: Results) -> None:
    def skipped(frame: DataFrame) -> DataFrame:
        chosen = frame["variant"].where(frame["layer"] != 7, "residual")
        return frame.assign(variant=chosen.where(frame["variant"] != "vanilla", "vanilla"))

    mixed = results_of(runs=skipped(grid.runs), gsnr=skipped(grid.gsnr))
    points = by_loop(mixed.gsnr[mixed.gsnr["estimator"] == "plain"], mixed.runs)
    facts = mixed.runs.groupby("run")[["variant", "position"]].first().loc[points.index]
    assert facts["variant"].value_counts().to_dict() == {"insert": 12, "residual": 7}
    ranks = points[["equal_epoch", "test_gain"]].groupby([facts["variant"], facts["position"]])
    centred = ranks.rank() - ranks.rank().groupby([facts["variant"], facts["position"]]).transform(
        "mean"
    )
    expected = np.corrcoef(centred["equal_epoch"], centred["test_gain"])[0, 1]
    cells = table(mixed, ASKED)
    cells = cells[cells["kind"] == "value"].set_index(["row", "group", "column"])["mean"]
    within = ("GSNR (plain)", "equal epoch", "test gain within positions")
    assert cells[within] == pytest.approx(expected)
    drawn = figure(mixed, ASKED)
    assert drawn.values.set_index("run")["variant"].to_dict() == facts["variant"].to_dict()
    lines = {line.get_label(): line for line in drawn.figure.axes[0].get_lines()}
    fills = {"inserted": "full", "inserted with a skip": "none"}
    for position in ("early", "middle", "end"):
        for title, fill in fills.items():
            assert lines[f"{position}, {title}"].get_fillstyle() == fill


def test_what_cannot_be_compared_is_an_error(grid: Results) -> None:
    with pytest.raises(ValueError, match="coherence: there must be runs of variant insert"):
        table(only_runs(grid), ASKED)
    lacking = results_of(runs=grid.runs.drop(columns="test_loss"), gsnr=grid.gsnr)
    with pytest.raises(ValueError, match="coherence: there must be runs with a loss on the test"):
        figure(lacking, ASKED)
    alone = results_of(runs=grid.runs[grid.runs["run"] != VANILLA], gsnr=grid.gsnr)
    with pytest.raises(ValueError, match="one vanilla run of vit-s on glyphs, got 0"):
        table(alone, ASKED)
