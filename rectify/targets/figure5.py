"""Figure 5: gain over vanilla against the similarity at the place of insertion."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pandas import DataFrame

from rectify.analysis import charts, drawing, factors, style
from rectify.analysis.charts import Shown, Spec
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.findings import Finding
from rectify.analysis.metrics import Metric, headline
from rectify.analysis.placements import placed, with_placement_gains
from rectify.analysis.selection import placement_similarity, predicted_choice
from rectify.analysis.statistics import (
    Correlation,
    format_correlation,
    rank_correlation,
    stratified_correlation,
)
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.results.tables import Column, Table
from rectify.targets.contract import ComparedSettings, Score, one_each, pairs_of_experiments
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Figure 5: gain by similarity"
SHOWS = ("figure",)
VALUES = Table(
    "figure5",
    "Gain over vanilla against the similarity of the inserted layer and the adjacent blocks.",
    ("layer", "position"),
    (
        Column("layer", "int64", "-", "layer of the language model, from 0"),
        Column("position", "str", "-", "early, middle, end, or blocks before it"),
        Column("similarity", "float64", "of the score", "mean over adjacent blocks and seeds"),
        Column("gain", "float64", "points, or of the metric", "over vanilla, mean over seeds"),
        Column("least", "float64", "as the gain", "smallest gain of a seed"),
        Column("most", "float64", "as the gain", "largest gain of a seed"),
        Column("seeds", "int64", "1", "seeds behind the mean"),
    ),
)
PLACES = [(6, 4), (6, -9), (-6, 4), (-6, -9), (0, 7), (0, -12), (12, -2), (-12, -2)]  # points
CHOICE = {
    "marker": "o",
    "markersize": 11,
    "linestyle": "",
    "zorder": 1,
    "markerfacecolor": "none",
    "markeredgecolor": "#d55e00",
    "markeredgewidth": 1.2,
}


class Settings(ComparedSettings):
    """The experiments that are shown: one language model in one ViT, positions and layers."""

    kind: Literal["figure5"] = "figure5"
    reads: Several[Name]
    score: Score = "mutual_knn"


similarities = pairs_of_experiments
check = one_each("data", "vision", "language", "variant")


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the gain over vanilla against the similarity at the place of insertion.

    Runs with a control in place of the frozen layer are not shown. A position may change gain and
    similarity at once, so the correlation is also taken within positions.

    Raises:
        ValueError: If a placement has no similarity, or a run no vanilla run.
    """
    metric = headline(results.runs)
    gains = with_placement_gains(results.runs, metric, "figure5")
    values = _gains_by_similarity(gains, metric.gain, results.similarity, settings.score)
    overall = rank_correlation(values["similarity"], values["gain"])
    within = stratified_correlation(values["similarity"], values["gain"], values["position"])
    with style.look():
        drawn, (axes,) = drawing.panels(style.COLUMN, 3.4)
        axes.axhline(0, color="#9a9a9a", linewidth=0.8)
        for index, position in enumerate(factors.values(gains, "position")):
            _points(axes, values[values["position"] == position], f"{position}", index)
        layer, position = predicted_choice(values)
        best = values[(values["layer"] == layer) & (values["position"] == position)].iloc[0]
        axes.plot(best["similarity"], best["gain"], **CHOICE, label="highest similarity")
        axes.set(xlabel=f"{SCORES_OF_LAYERS[settings.score]} with the adjacent ViT blocks")
        axes.set(ylabel=f"gain in {metric.label} ({metric.gain.unit})")
        axes.margins(x=0.1, y=0.1)
        axes.locator_params("x", nbins=5)  # so that their labels do not touch
        texts = [_correlation(overall, len(values)), _within(within)]
        axes.set_title("\n".join([drawing.setting(gains), *texts]))
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
        _write_layers(drawn, axes, values)
    return Drawn(drawn, values)


def _gains_by_similarity(
    gains: DataFrame, gain: Metric, similarity: DataFrame, score: str
) -> DataFrame:
    placements = placement_similarity(placed(similarity, gains, "figure5"), gains, score)
    points = gains.assign(gain=gain.factor * gains["gain"])
    measured = points.groupby(["layer", "position"])["gain"].agg(
        gain="mean", least="min", most="max", seeds="count"
    )
    values = placements.join(measured, on=["layer", "position"]).astype({"layer": "int64"})
    return values[VALUES.names].sort_values(["layer", "position"], ignore_index=True)


def _points(axes: "Axes", rows: DataFrame, position: str, index: int) -> None:
    correlation = rank_correlation(rows["similarity"], rows["gain"])
    colour, marker = style.of_position(position, index)
    axes.vlines(rows["similarity"], rows["least"], rows["most"], color=colour, linewidth=0.9)
    axes.plot(
        rows["similarity"],
        rows["gain"],
        marker=marker,
        linestyle="",
        color=colour,
        label=f"{position}: {_correlation(correlation, len(rows))}",
    )


def _correlation(correlation: Correlation | None, n: int) -> str:
    if correlation is None:
        return f"n = {n}"
    return f"Spearman {format_correlation(correlation)}, n = {correlation.n}"


def _within(correlation: Correlation | None) -> str:
    return f"within positions: {format_correlation(correlation)}"


def _write_layers(drawn: "Figure", axes: "Axes", values: DataFrame) -> None:
    """Write each point's layer next to it, where it hides the fewest points and labels."""
    drawn.draw_without_rendering()  # the layout must be known
    unit = drawn.dpi / 72
    points, *lines = (
        axes.transData.transform(np.column_stack([values["similarity"], heights])) / unit
        for heights in _heights(values)
    )
    taken = np.concatenate([points, *lines])
    for layer, similarity, gain, point in zip(
        values["layer"], values["similarity"], values["gain"], points, strict=True
    ):
        spots = [point + np.add(place, (0, 2.5)) for place in PLACES]
        place = PLACES[int(np.argmin([_crowd(spot, taken) for spot in spots]))]
        taken = np.vstack([taken, point + np.add(place, (0, 2.5))])
        axes.annotate(
            f"{layer}",
            (similarity, gain),
            xytext=place,
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[int(np.sign(place[0]))],
            fontsize=6.5,
            color=style.INK,
        ).set_in_layout(False)


def _heights(values: DataFrame) -> Iterator[np.ndarray]:
    """Yield the heights of the points, then heights along the lines from least to most."""
    yield values["gain"].to_numpy()
    for share in np.linspace(0, 1, 7):
        yield (values["least"] * (1 - share) + values["most"] * share).to_numpy()


def _crowd(spot: np.ndarray, taken: np.ndarray) -> int:
    near = np.abs(taken - spot)
    return int(np.sum((near[:, 0] < 6) & (near[:, 1] < 6)))


def findings(_cells: DataFrame | None, values: DataFrame) -> list[Finding]:
    """Return how gain goes with similarity, over all placements and within positions."""
    overall = rank_correlation(values["similarity"], values["gain"])
    within = stratified_correlation(values["similarity"], values["gain"], values["position"])
    texts = [_correlation(one, len(values)) for one in (overall, within)]
    claim = "The more alike a layer is to the adjacent ViT blocks, the more it helps there"
    return [Finding(claim, f"all placements: {texts[0]}; within positions: {texts[1]}.")]


def chart(shown: Shown) -> Spec:
    """Return the same for a reader: layer, position and numbers of the point below the pointer."""
    places = factors.values(shown.runs, "position")
    looks = [style.of_position(f"{place}", index) for index, place in enumerate(places)]
    scale = {"domain": places, "range": [colour for colour, _ in looks]}
    across = charts.measured("similarity", "similarity with the adjacent ViT blocks")
    position = {"field": "position", "title": None, "scale": scale}
    sides = {"x": across, "color": position}
    names = {"layer": "layer", "position": "position", "similarity": "similarity", "gain": "gain"}
    numbers = {"least": "least of a seed", "most": "most of a seed"}
    tooltip = charts.hover(
        {**names, **numbers, "seeds": "seeds"},
        {"similarity": ".4f", **dict.fromkeys(("gain", *numbers), "+.3f")},
    )
    line = {"type": "rule", "color": charts.SOFT, "aria": False}
    zero = {"mark": line, "encoding": {"y": {"datum": 0}}}
    span = {"y": charts.measured("least", "gain over vanilla"), "y2": {"field": "most"}}
    gain = {"y": charts.measured("gain", "gain over vanilla")}
    text = {"text": {"field": "layer"}, "color": {"value": charts.INK}}
    return charts.chart(
        shown.values,
        [
            zero,
            {"mark": {"type": "rule"}, "encoding": {**sides, **span}},
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {**sides, **gain, "tooltip": tooltip},
            },
            {
                "mark": {"type": "text", "dx": 9, "dy": -8, "fontSize": 11},
                "encoding": {"x": across, **gain, **text},
            },
        ],
    )
