"""What is it worth to choose layer and position by similarity? Gains and regrets of choices."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis import drawing, style
from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.findings import Finding
from rectify.analysis.metrics import Metric, headline
from rectify.analysis.placements import placed, with_placement_gains
from rectify.analysis.printing import spread
from rectify.analysis.published import REGRET
from rectify.analysis.selection import (
    Choice,
    best_choice,
    last_at_the_end,
    outcome,
    placement_similarity,
    predicted_choice,
)
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.results.tables import Column, Table
from rectify.targets.contract import ComparedSettings, Score, one_each, pairs_of_experiments
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Choosing layer and position by similarity"
SHOWS = ("table", "figure")
VALUES = Table(
    "selection",
    "Gain over vanilla, and regret, of the placements that each way to choose may choose, by seed.",
    ("choice", "layer", "position", "seed"),
    (
        Column("choice", "str", "-", "way to choose"),
        Column("layer", "int64", "-", "layer of the language model, from 0"),
        Column("position", "str", "-", "early, middle, end, or blocks before it"),
        Column("seed", "int64", "-", "seed of the training"),
        Column("gain", "float64", "points, or of the metric", "over vanilla of the same seed"),
        Column("regret", "float64", "as the gain", "what the best placement gains more"),
    ),
)
CHOSEN, BEST, RANDOM = "#0072b2", "#d55e00", "#999999"


class Settings(ComparedSettings):
    """The experiments whose placements can be chosen, and the scores that choose."""

    kind: Literal["selection"] = "selection"
    reads: Several[Name]
    score: Several[Score] = ("mutual_knn", "cka", "cknna")


similarities = pairs_of_experiments
check = one_each("data", "vision", "language", "variant")


def table(results: Results, settings: Settings) -> DataFrame:
    """Return gain and regret of what each score would choose, and of choices without similarity.

    Raises:
        ValueError: If a placement has no similarity or lacks a seed, or a run no vanilla run.
    """
    return _cells(*_tried(results, settings))


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the gain of each choice, and how far it is from the best one.

    A choice is its mean over seeds, with single seeds as dots; a random one is the expected gain,
    with the mean of each placement as a dot.

    Raises:
        ValueError: As ``table``.
    """
    metric, tried = _tried(results, settings)
    cells = _cells(metric, tried)
    values = tried.assign(**metric.gain.factor * tried[["gain", "regret"]])
    names = [*tried["choice"].unique()]
    with style.look():
        drawn, (axes,) = drawing.panels(style.PAGE, 0.9 + 0.25 * len(names))
        axes.axvline(0, color=style.INK, linewidth=0.7)
        best = values.loc[values["choice"] == names[-1], "gain"].mean()
        axes.axvline(best, color=BEST, linewidth=0.8, linestyle=":")
        regrets = cells[cells["kind"] == REGRET].set_index("row")
        for height, name in enumerate(names):
            _choice(axes, height, values[values["choice"] == name], best, name == names[-1])
            text = spread(regrets.loc[name])
            axes.annotate(text, (1.02, height), xycoords=("axes fraction", "data"), va="center")
        axes.annotate("regret", (1.02, -0.9), xycoords=("axes fraction", "data"), va="center")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(f"gain in {metric.label} ({metric.gain.unit})")
        drawn.suptitle(f"{drawing.common(results.runs)}; {drawing.seeds(values)}", fontsize=8.5)
    return Drawn(drawn, values[VALUES.names])


def _tried(results: Results, settings: Settings) -> tuple[Metric, DataFrame]:
    """Return the metric, and its gain and regret for each choice, its placements and seeds."""
    metric = headline(results.runs)
    gains = with_placement_gains(results.runs, metric, "selection")
    choices = _choices(gains, placed(results.similarity, gains, "selection"), settings.score)
    frames = [
        outcome(gains, option).assign(choice=name, layer=option.layer, position=option.position)
        for name, options in choices.items()
        for option in options
    ]
    return metric, pd.concat(frames).reset_index()


def _cells(metric: Metric, tried: DataFrame) -> DataFrame:
    """Return the table of what `_tried` returned: a random choice is the mean of its placements."""
    means = tried.groupby(["choice", "seed"], sort=False)[["gain", "regret"]].mean()
    gain = replace(metric.gain, name="gain")
    regret = replace(gain, name="regret", label="regret", kind=REGRET)
    columns = [ColumnSpec(f"gain in {metric.label}", (gain,)), ColumnSpec("regret", (regret,))]
    rows = [RowSpec(name, {"choice": name}) for name in tried["choice"].unique()]
    return fill(TableSpec("selection", rows, columns), means.reset_index())


def _choice(axes: "Axes", height: int, values: DataFrame, best: float, is_best: bool) -> None:
    """Draw one row: the mean, its distance to the best, and seeds, or placements if several."""
    several = len(values[["layer", "position"]].drop_duplicates()) > 1
    parts = values.groupby(["layer", "position"] if several else "seed")["gain"].mean()
    colour = BEST if is_best else RANDOM if several else CHOSEN
    mean = values["gain"].mean()
    axes.plot([mean, best], [height, height], color=colour, linewidth=1.0, alpha=0.5)
    axes.plot(parts, [height] * len(parts), "o", color=colour, markersize=2.5, alpha=0.6)
    axes.plot(mean, height, "o", color=colour, markersize=6)


def _choices(
    gains: DataFrame, similarity: DataFrame, scores: Sequence[str]
) -> dict[str, list[Choice]]:
    """Return the placements that each way to choose may choose, by its label."""
    chosen = {
        f"highest {SCORES_OF_LAYERS[score]}": predicted_choice(
            placement_similarity(similarity, gains, score)
        )
        for score in scores
    }
    if usual := last_at_the_end(gains):
        chosen["last layer at the end"] = usual
    places = gains[["layer", "position"]].drop_duplicates().itertuples(index=False)
    every = [Choice(int(layer), position) for layer, position in places]
    best = best_choice(gains)
    return {
        **{_label(name, choice): [choice] for name, choice in chosen.items()},
        f"any of the {len(every)}, at random: expected": every,
        _label("best", best): [best],
    }


def _label(name: str, choice: Choice) -> str:
    at = f"after {choice.position}" if choice.position.isdecimal() else choice.position
    return f"{name} (layer {choice.layer}, {at})"


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return what each choice gains less than the best."""
    regrets = cells[cells["kind"] == REGRET]
    texts = [f"{cell['row']}: {spread(cell)}" for _, cell in regrets.iloc[:-1].iterrows()]
    claim = "Similarity says which layer to insert where"
    unit = regrets["unit"].iloc[0]
    return [Finding(claim, f"Regret in {unit}, to the best placement: {'; '.join(texts)}.")]
