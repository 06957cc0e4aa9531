"""Figure 4 of Pang et al. (2024), and D: IoU of activations with masks, at each place."""

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
from pandas import DataFrame

from rectify.analysis import activations, drawing, style
from rectify.analysis.activations import (
    ATTENTION,
    COMMON_FLOORS,
    FEATURES,
    FLOORS,
    LAYER,
    PERMUTED,
)
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.findings import Finding
from rectify.results.declared import FILTERING
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, check_masks
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Pang, Figures 4 and D: information filtering"
SHOWS = ("figure",)
RUN = (
    Column("run", "str", "-", "name of the run"),
    Column("seed", "int64", "-", "training seed"),
)
VALUES = Table(
    "pang_figure4",
    FILTERING.meaning,
    ("run", "seed", *FILTERING.key),
    (*RUN, *FILTERING.columns),
)
PANELS = ("magnitude", "frequency", ATTENTION)
LETTERS = 30
"""Of the models' names in one line next to a row of panels: more do not fit its height."""
DOT = {"marker": "o", "markersize": 2.2, "linestyle": "", "color": style.INK}

files = ("filtering.csv",)
check = check_masks


class Settings(TargetSettings):
    """The experiments that are shown: sets with masks; a row of panels for each set and trunk."""

    kind: Literal["pang_figure4"] = "pang_figure4"
    reads: Several[Name]


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw the IoU at each image's best threshold, by place and activation, above its floors.

    Bars are means over seeds, dots single seeds. Lines are what maps reach that know nothing of
    the object, and the magnitude of the pixels themselves. The values also have the IoU at one
    threshold for the set, the calibrated one and the area under the curve.

    Raises:
        ValueError: If there is no run.
    """
    filtering = results.filtering
    check_some(filtering, "pang_figure4", "runs on a set with masks")
    groups = list(filtering.groupby(["data", "vision"], sort=False))
    with style.look():
        drawn, panels = drawing.panels(
            style.PAGE, 0.75 + 2.3 * len(groups), 3 * len(groups), columns=3
        )
        for row, (_, rows) in enumerate(groups):
            of_group = panels[3 * row : 3 * row + 3]
            for axes, activation in zip(of_group, PANELS, strict=True):
                _panel(axes, rows, activation)
            models = textwrap.fill(drawing.common(rows), LETTERS)
            of_group[0].set_ylabel(f"mean IoU\n{models}")
        _legend(drawn, filtering)
    return Drawn(drawn, filtering[VALUES.names])


def _panel(axes: "Axes", rows: DataFrame, activation: str) -> None:
    """Draw one group of bars for each place, one bar for each run that has it."""
    shown = rows[rows["activation"] == activation]
    last = f"block-{int(rows['depth'].iloc[0]) - 1}"
    places = (last, LAYER) if activation == ATTENTION else FEATURES
    titles = activations.TITLES | {last: "last block\nof the trunk"}
    if activation == ATTENTION:
        titles[LAYER] = "layer of the\nlanguage model"
    places = [place for place in places if place in set(shown["place"])]
    for position, place in enumerate(places):
        here = list(_runs(shown[shown["place"] == place]))
        width = min(0.8 / len(here), 0.25)
        for index, (rows_of_run, alpha) in enumerate(here):
            at = position + width * (index - (len(here) - 1) / 2)
            colour, values = activations.run_colour(rows_of_run.iloc[0]), rows_of_run["iou"]
            axes.bar(at, values.mean(), width=0.9 * width, color=colour, alpha=alpha)
            floor, half = rows_of_run[PERMUTED].mean(), 0.5 * width
            axes.plot([at - half, at + half], [floor, floor], linewidth=1.2, **FLOORS[PERMUTED][1])
            if len(values) > 1:
                axes.plot(np.full(len(values), at), values, **DOT)
    for column in COMMON_FLOORS:
        axes.axhline(shown[column].mean(), linewidth=1.0, **FLOORS[column][1])
    axes.set_xticks(range(len(places)), [titles[place] for place in places], fontsize=6.5)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(places) - 0.4)
    axes.set_title("attention of the class token" if activation == ATTENTION else activation)


def _runs(rows: DataFrame) -> Iterator[tuple[DataFrame, float]]:
    """Give the rows of each run, and the strength of its colour.

    Runs of the same colour are the fainter the later they come.
    """
    used: dict[str, int] = {}
    for _, of_run in rows.groupby("run", sort=False):
        colour = activations.run_colour(of_run.iloc[0])
        times = used[colour] = used.get(colour, 0) + 1
        yield of_run, 1 / times**0.7


def _legend(drawn: "Figure", filtering: DataFrame) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars: dict[str, Patch] = {}
    for _, rows in filtering.groupby(["data", "vision"], sort=False):
        for of_run, alpha in _runs(rows[rows["place"] == "F_E"]):
            run = of_run.iloc[0]
            title = activations.run_title(run, rows)
            bars.setdefault(
                title, Patch(color=activations.run_colour(run), alpha=alpha, label=title)
            )
    lines = [Line2D([], [], label=name, linewidth=1.0, **line) for name, line in FLOORS.values()]
    dots = [Line2D([], [], **DOT, label="one seed")] * (filtering["seed"].nunique() > 1)
    count = drawing.seeds(filtering)
    handles = [*bars.values(), *lines, *dots]
    drawn.legend(handles=handles, loc="outside lower center", ncols=4, title=count)


def findings(_cells: DataFrame | None, values: DataFrame) -> list[Finding]:
    """Return the best IoU without and with a frozen layer, next to the floors.

    A map's own floor is that of its permuted tokens: it is the higher, the denser the map.
    """
    is_feature = values["place"].isin(FEATURES) & (values["activation"] != ATTENTION)
    features = values[is_feature]
    texts = []
    parts = {
        "_vanilla": "the trunk alone",
        "_insert_": "with a frozen layer",
        "_residual_": "with a frozen layer and a skip",
    }
    for part, name in parts.items():
        rows = features[features["run"].str.contains(part, regex=False)]
        if len(rows):
            means = rows.groupby(["place", "activation"])[["iou", PERMUTED]].mean()
            best = means.loc[means["iou"].idxmax()]
            texts.append(
                f"{name} at best {best['iou']:.3f} ({', '.join(best.name)}; "
                f"with its tokens permuted {best[PERMUTED]:.3f})"
            )
    floors = [f"{FLOORS[column][0]} {features[column].mean():.3f}" for column in COMMON_FLOORS]
    claim = "A frozen layer filters information: its features concentrate on the object"
    return [Finding(claim, f"IoU with masks: {', '.join(texts)}; floors: {', '.join(floors)}.")]
