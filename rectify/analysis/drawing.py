"""What all figures share: panels, heat maps, and texts.

Lines and bars are means over seeds, thin lines and dots are single seeds: nothing on a figure
claims an interval that two seeds cannot support. Matplotlib is imported where it draws, so that
a configuration can name the figures without it.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pandas import DataFrame

from rectify.analysis import factors, style
from rectify.analysis.statistics import format_spread, seed_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


class Drawn(NamedTuple):
    """A figure and the values that it shows."""

    figure: "Figure"
    values: DataFrame


def panels(
    width: float, height: float, count: int = 1, sharey: bool = True, columns: int | None = None
) -> tuple["Figure", list["Axes"]]:
    """Return a figure of a size in inches, and its panels side by side or in some columns.

    Panels are listed row by row. Those of a row share the vertical axis, unless they shall not.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    columns = columns or count
    shared = "row" if sharey else "none"
    axes = figure.subplots(-(-count // columns), columns, sharey=shared, squeeze=False)
    return figure, list(axes.flat)


def bare(axes: "Axes") -> None:
    """Leave nothing of a panel but what is drawn, its title and its labels."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def whole_numbers(axes: "Axes", axis: str) -> None:
    """Put ticks at whole numbers only, on the axis ``x`` or ``y``."""
    from matplotlib.ticker import MaxNLocator

    getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(integer=True))


def shades(grid: DataFrame, around_zero: bool = False) -> "Normalize":
    """Return the scale of a heat map: all of its values, or as far below zero as above."""
    from matplotlib.colors import Normalize

    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    if around_zero:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return Normalize(low, high)


def heat_map(
    axes: "Axes",
    grid: DataFrame,
    scale: "Normalize",
    colours: str = style.HEAT,
    lower: bool = False,
) -> "AxesImage":
    """Draw a grid of values, its first row at the top, or at the bottom if ``lower``."""
    axes.grid(False)
    axes.spines[:].set_visible(False)
    origin = "lower" if lower else "upper"
    return axes.imshow(grid, cmap=colours, norm=scale, aspect="auto", origin=origin)


def write_cells(
    image: "AxesImage",
    grid: DataFrame,
    spread: DataFrame,
    decimals: int = 2,
    signed: bool = False,
) -> None:
    """Write mean and standard deviation into the cells of a heat map, in a colour that shows."""
    for row, column in np.ndindex(*grid.shape):
        mean = grid.iat[row, column]
        if np.isnan(mean):
            continue
        red, green, blue, _ = image.cmap(image.norm(mean))
        is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.45
        sign = "+" if signed and mean >= 0 else ""
        text = sign + format_spread(mean, spread.iat[row, column], decimals)
        image.axes.text(
            column,
            row,
            text.replace(" ±", "\n±"),
            ha="center",
            va="center",
            fontsize=7,
            color="black" if is_bright else "white",
        )


def seeds(frame: DataFrame) -> str:
    """Return how many seeds are behind a figure."""
    return seed_count(frame["seed"].nunique())


def common(runs: DataFrame) -> str:
    """Return the titles of language model, ViT and data set, where all runs have the same one."""
    return ", ".join(
        factors.title(runs, name, runs[name].dropna().iloc[0])
        for name in ("language", "vision", "data")
        if runs[name].nunique() == 1
    )


def setting(runs: DataFrame) -> str:
    """Return which language model is in which ViT, and on which data set."""
    first = runs.iloc[0]
    return f"{first['language_title']} in {first['vision_title']}, {first['data_title']}"
