"""Coherence of gradients against results: do runs whose gradients agree more test better?

The papers' chain is: block, more coherent gradients, better test result and generalisation. Each
run is a point, its gains over the vanilla run of the same data, ViT and seed are means over seeds:
in coherence at equal epoch and at equal training loss (`rectify.analysis.coherence`), in the test
result, and in the generalisation gap, test loss less training loss of the last epoch (the mean
over its augmented batches). All gains but that in coherence are positive where the run is better,
so a smaller gap is a gain.

Every run but the vanilla ones counts, whatever its variant and control. A run with a seed that has
no training loss in common with vanilla is left out at equal loss. Correlations within positions
compare only runs of one variant with the block at the same position: either may change everything
at once.
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pandas import DataFrame

from rectify.analysis import drawing, factors, style
from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some, with_one_layer
from rectify.analysis.coherence import MEASURES, gains
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.findings import Finding, correlations, count_positive
from rectify.analysis.metrics import TEST_LOSS, Metric, headline
from rectify.analysis.statistics import (
    Correlation,
    format_correlation,
    rank_correlation,
    stratified_correlation,
    with_gains,
)
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Gain by coherence of gradients"
SHOWS = ("table", "figure")
VALUES = Table(
    "coherence",
    "Gains of each run over vanilla in GSNR, test result and generalisation gap, means over seeds.",
    ("run",),
    (
        Column("run", "str", "-", "name of the run"),
        Column("variant", "str", "-", "insert, residual or auxiliary"),
        Column("position", "str", "-", "early, middle, end, or blocks before it"),
        Column("layer", "float64", "-", "layer of the language model, from 0", True),
        Column("control", "str", "-", "frozen, or what is in place of the frozen layer"),
        Column("equal_epoch", "float64", "-", "gain in the shown GSNR at equal epoch"),
        Column("equal_loss", "float64", "-", "the same at equal training loss", True),
        Column("test_gain", "float64", "points, or of the metric", "gain in the task's metric"),
        Column("gap_gain", "float64", "nats", "vanilla's generalisation gap less the run's"),
        Column("seeds", "int64", "1", "seeds behind the means"),
    ),
)
GAP = Metric("gap", "generalisation gap", "nats", better="lower")
SIDES = {"equal epoch": "equal_epoch", "equal loss": "equal_loss"}
RESULTS = {"test gain": "test_gain", "gap": "gap_gain"}
WITHIN = " within positions"
ABSENT = "too few runs"
FILLS = {"insert": "full", "residual": "none", "auxiliary": "left"}
"""Markers of each variant; their colours and shapes are those of positions."""
ZERO = {"color": "#9a9a9a", "linewidth": 0.8}


class Settings(TargetSettings):
    """The experiments whose runs are the points."""

    kind: Literal["coherence"] = "coherence"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return how each measure of coherence correlates with the results, over runs.

    Where fewer than three runs can be compared, or all have the same gain, a cell says so.

    Raises:
        ValueError: If there is no run to compare, or a run has no vanilla run.
    """
    points = _points(results)
    measures = dict(_measures(results.gsnr, results.estimator))
    rows = [{"run": name, **_numbers(points.join(gained))} for name, gained in measures.items()]
    columns = [
        ColumnSpec(
            label,
            (Metric(name, "ρ", "rho", absent=ABSENT), Metric(f"{name}_p", "p", "-", kind="p")),
            {},
            group,
        )
        for group, label, name in _columns()
    ]
    spec = TableSpec("coherence", [RowSpec(name, {"run": name}) for name in measures], columns)
    return fill(spec, DataFrame(rows)).assign(seeds=results.runs["seed"].nunique())


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw the gains in test result and gap against that in GSNR, at equal epoch and equal loss.

    Raises:
        ValueError: If there is no run to compare, or a run has no vanilla run.
    """
    shown = results.gsnr[results.gsnr["estimator"] == results.estimator]
    points = _points(results).join(_over_seeds(gains(shown)))
    metric = headline(results.runs)
    labels = {
        "test_gain": f"gain in {metric.label} ({metric.gain.unit})",
        "gap_gain": f"fall in {GAP.label} ({GAP.unit})",
    }
    with style.look():
        drawn, panels = drawing.panels(style.PAGE, 5.6, 4, columns=2)
        places = [(result, side) for result in labels for side in SIDES]
        for axes, (result, side) in zip(panels, places, strict=True):
            _panel(axes, points, SIDES[side], result)
            axes.set_xlabel(f"gain in GSNR ({results.estimator}) at {side}")
        for axes, label in zip(panels[::2], labels.values(), strict=True):
            axes.set_ylabel(label)
        handles = panels[0].get_legend_handles_labels()
        drawn.legend(*handles, loc="outside lower center", ncols=min(len(handles[0]), 6))
        parts = [drawing.common(results.runs), drawing.seeds(results.runs)]
        drawn.suptitle("; ".join(part for part in parts if part), fontsize=8.5)
    return Drawn(drawn, points.reset_index()[VALUES.names])


def _points(results: Results) -> DataFrame:
    """Return variant, position, layer, control and gains of each run, by its name."""
    runs = with_one_layer(results.runs, "coherence")
    check_some(runs[runs["variant"] != "vanilla"], "coherence", "runs of variant insert, auxiliary")
    check_some(runs.filter(items=[TEST_LOSS]), "coherence", "runs with a loss on the test set")
    metric = headline(runs)
    gained = with_gains(runs.assign(gap=runs[TEST_LOSS] - runs["main_loss"]), [metric, GAP])
    gained = gained[gained["variant"] != "vanilla"]
    gained["test_gain"] = gained[metric.gain.name] * metric.gain.factor
    return gained.groupby("run", sort=False).agg(
        variant=("variant", "first"),
        position=("position", "first"),
        insert_at=("insert_at", "first"),
        layer=("layer", "first"),
        control=("control", "first"),
        test_gain=("test_gain", "mean"),
        gap_gain=(GAP.gain.name, "mean"),
        seeds=("seed", "nunique"),
    )


def _measures(gsnr: DataFrame, estimator: str) -> Iterator[tuple[str, DataFrame]]:
    """Yield each measure of coherence with the gains of all runs in it."""
    for name in dict.fromkeys((estimator, "debiased")):
        yield f"GSNR ({name})", _over_seeds(gains(gsnr[gsnr["estimator"] == name]))
    sums = gsnr[gsnr["estimator"] == estimator]  # the same for every estimator
    for name, (of_blocks, of_mean) in MEASURES.items():
        yield name, _over_seeds(gains(sums.assign(gsnr=of_blocks(sums)), (), of_mean))


def _over_seeds(gained: DataFrame) -> DataFrame:
    """Return the mean gains of each run; none where a seed has none."""
    by_run = gained.groupby("run")[list(SIDES.values())]
    return by_run.agg(lambda values: values.mean(skipna=False))


def _columns() -> Iterator[tuple[str, str, str]]:
    """Yield head, label and name of each column of the table."""
    for group, side in SIDES.items():
        for label, result in RESULTS.items():
            yield group, label, f"{side}_{result}"
            yield group, f"{label}{WITHIN}", f"{side}_{result}_within"


def _numbers(points: DataFrame) -> dict[str, float]:
    """Return the correlations, and p values with ``_p`` behind their names; NaN without one."""
    correlations = [
        correlation
        for side in SIDES.values()
        for result in RESULTS.values()
        for correlation in _correlations(points, side, result)
    ]
    numbers = {}
    for (_, _, name), correlation in zip(_columns(), correlations, strict=True):
        rho, p, _ = correlation or (math.nan, math.nan, 0)
        numbers |= {name: rho, f"{name}_p": p}
    return numbers


def _correlations(
    points: DataFrame, side: str, result: str
) -> tuple[Correlation | None, Correlation | None]:
    """Return the correlation over all runs that have both gains, and that within positions."""
    rows = points.dropna(subset=[side, result])
    return (
        rank_correlation(rows[side], rows[result]),
        stratified_correlation(rows[side], rows[result], rows["variant"] + rows["position"]),
    )


def _panel(axes: "Axes", points: DataFrame, side: str, result: str) -> None:
    axes.axhline(0, **ZERO)
    axes.axvline(0, **ZERO)
    variants = factors.titles(points, "variant")
    positions = list(enumerate(factors.values(points, "position")))
    for variant, (index, position) in itertools.product(variants, positions):
        rows = points[(points["variant"] == variant) & (points["position"] == position)]
        colour, marker = style.of_position(f"{position}", index)
        label = factors.title(points, "position", position)
        label = label if len(variants) == 1 else f"{label}, {variants[variant]}"
        if len(rows):
            look = {"color": colour, "fillstyle": FILLS[f"{variant}"]}
            axes.plot(rows[side], rows[result], marker, label=label, **look)
    axes.margins(x=0.08, y=0.08)
    axes.locator_params("x", nbins=6)  # so that their labels do not touch
    pooled, within = map(format_correlation, _correlations(points, side, result))
    count = points[side].notna().sum()
    axes.set_title(f"all: {pooled}, n = {count}\nwithin positions: {within}")


def findings(cells: DataFrame, values: DataFrame) -> list[Finding]:
    """Return how many runs gain GSNR, and how these gains go with those in the results."""
    counts = [f"at {side} in {count_positive(values[name])}" for side, name in SIDES.items()]
    row = cells.sort_values("row_index")["row"].iloc[0]  # the shown estimator
    return [
        Finding("The gradients of more samples agree: GSNR rises", f"{', '.join(counts)} runs."),
        *(
            Finding(claim, f"{correlations(cells, row, [(s, label + WITHIN) for s in SIDES])}.")
            for claim, label in (
                ("Runs that gain GSNR test better (correlation within positions)", "test gain"),
                ("Runs that gain GSNR generalise better (correlation within positions)", "gap"),
            )
        ),
    ]
