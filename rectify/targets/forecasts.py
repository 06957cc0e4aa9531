"""Forecasts of a few test scenes: of a model alone, with a frozen layer, and with a second path."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pandas import DataFrame, Series
from pydantic import Field, NonNegativeInt

from rectify.analysis import activations, drawing, style
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.scenes import Forecasts, Scene, Scenes
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, View, check_task, each_variant
from rectify.typed import Listed, Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

TITLE = "Forecasts of a few scenes"
SHOWS = ("figure",)
VALUES = Table(
    "forecasts",
    "The lines that are drawn, point by point.",
    ("item", "line", "run", "number", "point"),
    (
        Column("item", "int64", "-", "place of the scene in the test set, from 0"),
        Column("line", "str", "-", "lane, observed, truth or forecast"),
        Column("run", "str", "-", "name of the run of a forecast, - of other lines"),
        Column("number", "int64", "-", "of a lane; of an agent, the scored one 0; of a forecast, "
                                       "the most likely 0"),
        Column("point", "int64", "-", "of the line, from its start"),
        Column("ahead", "float64", "m", "of the scored agent's last observed position"),
        Column("left", "float64", "m", "of it"),
        Column("probability", "float64", "share, 0..1", "of a forecast", optional=True),
    ),
)  # fmt: skip
TASK = "motion_forecasting"
SHOWN = 4  # scenes
MARGIN = 6.0  # metres around what must be seen
LEAST = 25.0  # metres from the middle of a panel to its edge
FAINT = 0.05  # what is more opaque than this must be seen
LOOKS = {
    "lane": {"color": style.LINE, "linewidth": 0.9},
    "observed": {"color": style.INK, "linewidth": 1.4, "marker": "o", "markersize": 3.5},
    "truth": {"color": "#009e73", "linewidth": 3.0, "solid_capstyle": "round", "alpha": 0.6},
    "forecast": {"linewidth": 1.1, "marker": "o", "markersize": 2.0},
}
OTHERS = {"color": "#cc79a7", "linewidth": 0.8, "markersize": 2.5}
BAR = 10.0  # metres
NEUTRAL = style.SOFT  # in the legend, for the colours of the rows
draws_items = True
needs = each_variant


class Settings(TargetSettings):
    """The experiments that are shown, of which the last run of each variant is drawn."""

    kind: Literal["forecasts"] = "forecasts"
    reads: Several[Name]
    items: Listed[NonNegativeInt] = Field(
        (), description="Places of scenes in the test set, from 0; unless given, from easy to hard."
    )


class Panel(NamedTuple):
    """A scene, and what a run says of it."""

    item: int
    scene: Scene
    run: Series
    trajectories: np.ndarray
    """(modes, steps, 2)."""
    probabilities: np.ndarray

    @property
    def opacity(self) -> np.ndarray:
        """Probabilities, of which the largest is 1."""
        return self.probabilities / self.probabilities.max()

    @property
    def observed(self) -> int:
        """How many steps the run has seen."""
        return self.scene.tracks.shape[1] - self.trajectories.shape[1]


class Line(NamedTuple):
    """What is drawn from point to point."""

    kind: str
    number: int
    points: np.ndarray
    """(points, 2), not a number where there is a gap."""
    probability: float = math.nan
    opacity: float = 1.0


def check(settings: TargetSettings, config: View, where: str) -> None:
    """Check that every data set is one of traffic."""
    check_task(settings, config, where, TASK)


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw each scene in a column, and what each run says of it in a row; of the first seed.

    Raises:
        ValueError: If there is no run, runs on several sets, or no scene of a number.
    """
    runs = results.runs[results.runs["seed"] == results.runs["seed"].min()]
    check_some(runs, "forecasts", "runs on a set of traffic")
    scenes = Scenes(results.prepared(only(runs, "data", "forecasts")))
    found = [results.forecasts(run["run"], run["seed"]) for _, run in runs.iterrows()]
    chosen = _chosen(scenes, found[0], settings.items)
    shown = [
        Panel(item, scene, run, one.trajectories[item], one.probabilities[item])
        for (_, run), one in zip(runs.iterrows(), found, strict=True)
        for item, scene in chosen.items()
    ]
    views = {item: _view([panel for panel in shown if panel.item == item]) for item in chosen}
    lines = [list(_lines(panel, views[panel.item])) for panel in shown]
    with style.look():
        height = style.PAGE / len(chosen) * len(runs) + 0.7
        drawn, places = drawing.panels(style.PAGE, height, len(shown), False, len(chosen))
        for number, (axes, panel, own) in enumerate(zip(places, shown, lines, strict=True)):
            colour = activations.run_colour(panel.run)
            _draw(axes, own, colour, views[panel.item])
            if number < len(chosen):
                axes.set_title(f"scene {panel.item}")
                _scale_bar(axes)
            if number % len(chosen) == 0:
                axes.set_ylabel(activations.run_title(panel.run, runs), color=colour)
        drawn.suptitle(f"{drawing.common(runs)}, seed {runs['seed'].iloc[0]}", fontsize=8.5)
        drawn.legend(handles=_legend(), loc="outside lower center", ncols=5)
    return Drawn(drawn, _values(shown, lines))


def _chosen(scenes: Scenes, forecasts: Forecasts, items: Sequence[int]) -> Mapping[int, Scene]:
    """Return the scenes that are shown, by their places."""
    count, (_, _, future, _) = len(scenes), forecasts.trajectories.shape
    if missing := [item for item in items if item >= count]:
        raise ValueError(
            f"forecasts: items must be below {count}, the number of test scenes, got "
            f"{missing[0]}. Name others."
        )
    if not items:
        ranks = (np.arange(SHOWN) + 0.5) / SHOWN * count
        order = scenes.from_easy_to_hard(scenes[0].tracks.shape[1] - future)
        items = order[ranks.astype(int)].tolist()
    return {item: scenes[item] for item in items}


def _view(panels: Sequence[Panel]) -> tuple[np.ndarray, float]:
    """Return the middle of a square with all of a scene that must be seen, and half its side."""
    ways = [way for one in panels for way in one.trajectories[one.opacity > FAINT]]
    points = np.concatenate([panels[0].scene.tracks[0], *ways])
    low, high = np.nanmin(points, 0), np.nanmax(points, 0)
    return (low + high) / 2, max((high - low).max() / 2 + MARGIN, LEAST)


def _lines(panel: Panel, view: tuple[np.ndarray, float]) -> Iterator[Line]:
    """Give what is drawn, from the lowest on."""
    (middle, half), (tracks, lanes), now = view, panel.scene, panel.observed
    for number, points in enumerate(lanes):
        if (np.abs(points - middle) <= half).all(1).any():
            yield Line("lane", number, points)
    start = tracks[0, now - 1 : now]
    yield Line("truth", 0, tracks[0, now - 1 :])
    for mode in reversed(range(len(panel.trajectories))):  # the most likely last
        points = np.concatenate([start, panel.trajectories[mode]])
        yield Line("forecast", mode, points, panel.probabilities[mode], panel.opacity[mode])
    for agent in reversed(range(len(tracks))):  # the scored one last
        if (np.abs(tracks[agent, now - 1] - middle) <= half).all():
            yield Line("observed", agent, tracks[agent, :now])


def _draw(axes: "Axes", lines: Sequence[Line], colour: str, view: tuple[np.ndarray, float]) -> None:
    """Draw a panel: the scored agent goes up."""
    (ahead, left), half = view
    drawing.bare(axes)
    for kind, number, points, _, opacity in lines:
        looks = dict(LOOKS[kind])
        if kind == "observed" and number > 0:
            looks |= OTHERS
        if kind == "forecast":
            looks |= {"color": colour, "alpha": opacity}
        axes.plot(-points[:, 1], points[:, 0], label=kind, markevery=[-1], **looks)
    axes.set_aspect("equal")
    axes.set(xlim=(-left - half, -left + half), ylim=(ahead - half, ahead + half))


def _scale_bar(axes: "Axes") -> None:
    """Draw how long some metres are, at the lower left."""
    (left, _), (low, high) = axes.get_xlim(), axes.get_ylim()
    height = low + 0.03 * (high - low)
    look = {"color": style.INK, "linewidth": 1.2, "solid_capstyle": "butt", "label": "scale"}
    axes.plot([left, left + BAR], [height, height], **look)
    axes.text(left, height, f"{BAR:.0f} m", va="bottom", fontsize=6.5, color=style.INK)


def _legend() -> list["Line2D"]:
    from matplotlib.lines import Line2D

    looks = {
        "lane": LOOKS["lane"],
        "observed": LOOKS["observed"],
        "observed, others": {**LOOKS["observed"], **OTHERS},
        "truth": LOOKS["truth"],
        "forecast, the more opaque the more likely": {**LOOKS["forecast"], "color": NEUTRAL},
    }
    return [Line2D([], [], label=label, **look) for label, look in looks.items()]


def _values(panels: Sequence[Panel], lines: Sequence[Sequence[Line]]) -> DataFrame:
    rows = {
        (panel.item, kind, panel.run["run"] if kind == "forecast" else "-", number, point):
        (ahead, left, probability)
        for panel, own in zip(panels, lines, strict=True)
        for kind, number, points, probability, _ in own
        for point, (ahead, left) in enumerate(points.tolist())
        if not math.isnan(ahead)
    }  # fmt: skip
    return DataFrame([(*key, *row) for key, row in rows.items()], columns=VALUES.names)
