"""Figure 3 of Pang et al. (2024): maps of activations of a few images, at each place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from pandas import DataFrame

from rectify.analysis import activations, drawing, factors, style
from rectify.analysis.activations import ATTENTION, FEATURES, LAYER
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Maps, Results
from rectify.analysis.drawing import Drawn
from rectify.results.tables import Column, Table
from rectify.targets.contract import Run, TargetSettings, check_masks
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Pang, Figure 3: activations of a few images"
SHOWS = ("figure",)
VALUES = Table(
    "pang_figure3",
    "The maps of activations that are drawn, token by token.",
    ("run", "item", "place", "activation", "row", "column"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("seed", "int64", "-", "training seed"),
        Column("item", "int64", "-", "place of the image in the test set, from 0"),
        Column("place", "str", "-", "F_E, F_L1, F_A, F_F, F_L2, F_S, or block-<n>"),
        Column("activation", "str", "-", "magnitude, frequency, or attention of the class token"),
        Column("row", "int64", "-", "of the token, from the top"),
        Column("column", "int64", "-", "of the token, from the left"),
        Column("value", "float64", "-", "0..1 in each image"),
    ),
)
IMAGES = 3
HEADS = 6  # of each attention that are drawn
OUTLINE = {"colors": "#ff5a1f", "linewidths": 0.8}
FEATURE_KINDS = ("magnitude", "frequency")

files = ("filtering.csv", "maps.safetensors")
check = check_masks


class Settings(TargetSettings):
    """The experiments that are shown, of which the last frozen layer is drawn."""

    kind: Literal["pang_figure3"] = "pang_figure3"
    reads: Several[Name]


class Cell(NamedTuple):
    """One map: of which run, place and activation, and what stands above it."""

    maps: Maps
    place: str
    activation: str
    title: str = ""

    @property
    def values(self) -> np.ndarray:
        """The maps of all images (images, rows, columns), of a head too."""
        if self.activation.startswith("head-"):
            heads = self.maps.arrays[f"heads/{self.place}"]
            return heads[:, int(self.activation.removeprefix("head-"))]
        return self.maps.arrays[f"map/{self.place}/{self.activation}"]


def needs(_settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """Return the last run with a frozen layer, and the vanilla run of the same ViT and data."""
    frozen = [run for run in runs if run.variant != "vanilla" and run.control == factors.FROZEN]
    last = frozen[-1:] or list(runs[-1:])
    return [
        run
        for run in runs
        if run in last or (run.variant == "vanilla" and {(run.data, run.vision)} & _places(last))
    ]


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw magnitude and frequency of a few images at each place, then heads of attention.

    The mask is outlined; the maps are of the first seed.

    Raises:
        ValueError: If there is no run.
    """
    runs = results.maps
    titles = DataFrame([maps.run for maps in runs])
    check_some(titles, "pang_figure3", "runs on a set with masks")
    columns = [
        (maps, place)
        for maps in runs
        for place in FEATURES
        if f"map/{place}/magnitude" in maps.arrays
    ]
    images = range(min(IMAGES, len(runs[0].arrays["items"])))
    features = {
        kind: [Cell(maps, place, kind, _title(maps, place, titles)) for maps, place in columns]
        for kind in FEATURE_KINDS
    }
    heads = [_heads(maps, place, titles) for maps, place in _attention(runs)]
    drawn_cells = [(image, cells) for image in images for cells in features.values()]
    drawn_cells += [(0, cells) for cells in heads]
    width = 1 + max(len(cells) for _, cells in drawn_cells)
    with style.look():
        size = style.PAGE / width
        drawn, panels = drawing.panels(
            style.PAGE, size * len(drawn_cells) + 0.9, width * len(drawn_cells), False, width
        )
        for row, (image, cells) in enumerate(drawn_cells):
            first, *others = panels[width * row : width * (row + 1)]
            is_head = row >= len(drawn_cells) - len(heads)
            kind = ATTENTION if is_head else cells[0].activation
            _image(first, runs[0], image, kind)
            has_titles = row == 0 or is_head
            for axes, cell in zip(others, cells, strict=False):
                mask = runs[0].arrays["mask"][image]
                _map(axes, cell.values[image], mask, cell.title if has_titles else "")
            for axes in others[len(cells) :]:
                axes.set_axis_off()
        first_run = runs[-1].run
        drawn.suptitle(f"{drawing.common(titles)}, seed {first_run['seed']}", fontsize=8.5)
    return Drawn(drawn, _values(drawn_cells, runs[0].arrays["items"]))


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


def _image(axes: "Axes", maps: Maps, image: int, kind: str) -> None:
    """Draw an image with the outline of its object."""
    pixels = maps.arrays["image"][image].transpose(1, 2, 0)
    drawing.bare(axes)
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray")
    axes.contour(maps.arrays["mask"][image], levels=[0.5], **OUTLINE)
    axes.set_ylabel(kind)


def _map(axes: "Axes", values: np.ndarray, mask: np.ndarray, title: str) -> None:
    """Draw a map of tokens, with the outline at the place that it has in the image."""
    height, width = mask.shape
    drawing.bare(axes)
    axes.imshow(values, cmap=style.HEAT, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.contour(mask, levels=[0.5], **OUTLINE)
    axes.set_title(title, fontsize=7)


def _values(drawn: Sequence[tuple[int, Sequence[Cell]]], items: np.ndarray) -> DataFrame:
    rows = [
        (cell.maps.run["run"], cell.maps.run["seed"], int(items[image]), cell.place,
         cell.activation, row, column, float(value))
        for image, cells in drawn
        for cell in cells
        for (row, column), value in np.ndenumerate(cell.values[image])
    ]  # fmt: skip
    return DataFrame(rows, columns=VALUES.names)
