"""Figure 3 of Pang et al. (2024): activations of a few images or clouds, at each place or run."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pandas import DataFrame
from pydantic import Field

from rectify.analysis import activations, clouds, drawing, factors, style
from rectify.analysis.activations import ATTENTION, FEATURES, LAYER
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Maps, Results
from rectify.analysis.drawing import Drawn
from rectify.results.tables import Column, Table
from rectify.targets.contract import Run, TargetSettings, check_masks
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Pang, Figure 3: activations of a few images or clouds"
SHOWS = ("figure",)
VALUES = Table(
    "pang_figure3",
    "The maps of activations that are drawn, token by token.",
    ("run", "item", "place", "activation", "row", "column"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("seed", "int64", "-", "training seed"),
        Column("item", "int64", "-", "place of the item in the test set, from 0"),
        Column("place", "str", "-", "F_E, F_L1, F_A, F_F, F_L2, F_S, or block-<n>"),
        Column("activation", "str", "-", "magnitude, frequency, or attention of the class token"),
        Column("row", "int64", "-", "of the token, from the top; group of a cloud"),
        Column("column", "int64", "-", "of the token, from the left; 0 of a cloud"),
        Column("value", "float64", "-", "0..1 in each item"),
    ),
)
ITEMS = 3
HEADS = 6  # of each attention that are drawn
LETTERS = 110  # of titles side by side, in a line
OBJECT, AROUND = "#ff5a1f", "#b8b8b8"
OUTLINE = {"colors": OBJECT, "linewidths": 0.8}
FEATURE_KINDS = ("magnitude", "frequency")

files = ("filtering.csv", "maps.safetensors")
check = check_masks


class Settings(TargetSettings):
    """The experiments that are shown, of which the last data set and trunk are drawn."""

    kind: Literal["pang_figure3"] = "pang_figure3"
    reads: Several[Name]
    columns: Literal["places", "runs"] = Field(
        "places",
        description="All places of the run with the last frozen layer, and attention below; or "
        "what reaches the head in each run.",
    )
    up: clouds.Up = Field("z", description="Axis of clouds that points upwards.")


class Cell(NamedTuple):
    """One map: of which run, place and activation, and what stands above it."""

    maps: Maps
    place: str
    activation: str
    title: str = ""

    @property
    def values(self) -> np.ndarray:
        """The maps of all items (items, rows, columns), of a head too."""
        if self.activation.startswith("head-"):
            heads = self.maps.arrays[f"heads/{self.place}"]
            return heads[:, int(self.activation.removeprefix("head-"))]
        return self.maps.arrays[f"map/{self.place}/{self.activation}"]


def needs(settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """Return the runs of a column each, or the last with a frozen layer and the vanilla one.

    They are of one data set and trunk.
    """
    frozen = [run for run in runs if run.variant != "vanilla" and run.control == factors.FROZEN]
    last = frozen[-1:] or list(runs[-1:])
    same = [run for run in runs if {(run.data, run.vision)} & _places(last)]
    if settings.columns == "runs":
        return same
    return [run for run in same if run in last or run.variant == "vanilla"]


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the activations of a few items, of images with the outline of the mask.

    Columns are places, for magnitude and frequency, with heads of attention below them; or runs,
    for the magnitude of what reaches the head. The maps are of the first seed.

    Raises:
        ValueError: If there is no run.
    """
    runs = results.maps
    titles = DataFrame([maps.run for maps in runs])
    check_some(titles, "pang_figure3", "runs on a set with masks")
    rows = _rows_of(runs, titles, settings)
    width = 1 + max(len(cells) for _, cells in rows)
    with style.look():
        size = style.PAGE / width
        drawn, panels = drawing.panels(
            style.PAGE, size * len(rows) + 0.9, width * len(rows), False, width
        )
        for row, (item, cells) in enumerate(rows):
            first, *others = panels[width * row : width * (row + 1)]
            is_head = cells[0].activation == ATTENTION
            _draw(first, runs[0], item, None, settings)
            first.set_ylabel(cells[0].activation)
            for axes, cell in zip(others, cells, strict=False):
                _draw(axes, cell.maps, item, cell.values[item], settings)
                axes.set_title(cell.title if row == 0 or is_head else "", fontsize=7)
            for axes in others[len(cells) :]:
                axes.set_axis_off()
        first_run = runs[-1].run
        drawn.suptitle(f"{drawing.common(titles)}, seed {first_run['seed']}", fontsize=8.5)
    return Drawn(drawn, _values(rows, runs[0].arrays["items"]))


def _rows_of(
    runs: Sequence[Maps], titles: DataFrame, settings: Settings
) -> list[tuple[int, list[Cell]]]:
    """Return the cells of each row behind its item."""
    items = range(min(ITEMS, len(runs[0].arrays["items"])))
    places = {
        maps.run["run"]: [p for p in FEATURES if f"map/{p}/magnitude" in maps.arrays]
        for maps in runs
    }
    if settings.columns == "runs":
        letters = LETTERS // (1 + len(runs))
        names = [textwrap.fill(activations.run_title(maps.run, titles), letters) for maps in runs]
        ends = [places[maps.run["run"]][-1] for maps in runs]
        shown = [
            Cell(maps, end, "magnitude", name)
            for maps, end, name in zip(runs, ends, names, strict=True)
        ]
        return [(item, shown) for item in items]
    features = [
        [
            Cell(maps, place, kind, _title(maps, place, titles))
            for maps in runs
            for place in places[maps.run["run"]]
        ]
        for kind in FEATURE_KINDS
    ]
    heads = [_heads(maps, place, titles) for maps, place in _attention(runs)]
    return [(item, cells) for item in items for cells in features] + [(0, row) for row in heads]


def _places(runs: Sequence[Run]) -> set[tuple[str, str]]:
    return {(run.data, run.vision) for run in runs}


def _attention(runs: Sequence[Maps]) -> list[tuple[Maps, str]]:
    """Return each run with the place of each attention that is kept."""
    return [
        (maps, name.removeprefix("heads/"))
        for maps in runs
        for name in sorted(maps.arrays, reverse=True)  # the ViT's before the layer's
        if name.startswith("heads/")
    ]


def _heads(maps: Maps, place: str, titles: DataFrame) -> list[Cell]:
    """Return the sum over the heads, and the first heads, of one attention."""
    count = min(HEADS, maps.arrays[f"heads/{place}"].shape[1])
    where = "layer" if place == LAYER else place.replace("-", " ")
    run = activations.run_title(maps.run, titles)
    summed = Cell(maps, place, ATTENTION, f"{run}\n{where}: sum")
    return [summed, *(Cell(maps, place, f"head-{n}", f"head {n}") for n in range(count))]


def _title(maps: Maps, place: str, titles: DataFrame) -> str:
    symbol = activations.TITLES[place].partition("\n")[0]
    return f"{activations.run_title(maps.run, titles)}\n{symbol}"


def _draw(
    axes: "Axes", maps: Maps, item: int, values: np.ndarray | None, settings: Settings
) -> None:
    """Draw an item and where its object is, or its map."""
    drawing.bare(axes)
    mask = maps.arrays["mask"][item]
    if "points" in maps.arrays:
        points, nearest = (maps.arrays[name][item] for name in ("points", "nearest"))
        if values is None:
            clouds.scatter(axes, points, np.where(mask, OBJECT, AROUND), settings.up)
        else:
            colours = values.ravel()[nearest]
            clouds.scatter(axes, points, colours, settings.up, cmap=style.HEAT, vmin=0, vmax=1)
        return
    if values is None:
        pixels = maps.arrays["image"][item].transpose(1, 2, 0)
        axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray")
    else:
        height, width = mask.shape
        axes.imshow(values, cmap=style.HEAT, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.contour(mask, levels=[0.5], **OUTLINE)


def _values(drawn: Sequence[tuple[int, Sequence[Cell]]], items: np.ndarray) -> DataFrame:
    rows = [
        (cell.maps.run["run"], cell.maps.run["seed"], int(items[item]), cell.place,
         cell.activation, row, column, float(value))
        for item, cells in drawn
        for cell in cells
        for (row, column), value in np.ndenumerate(cell.values[item])
    ]  # fmt: skip
    return DataFrame(rows, columns=VALUES.names)
