"""Heat maps: their scale, and letters that show on every colour."""

import math

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pandas import DataFrame

from rectify.analysis import drawing, style

GRID = DataFrame([[1.0, -3.0, 0.5], [math.nan, 2.0, 4.0]])


def test_gains_are_as_far_from_white_below_zero_as_above() -> None:
    scale = drawing.shades(GRID, around_zero=True)
    assert (scale.vmin, scale.vmax) == (-4, 4)
    assert drawing.shades(GRID, around_zero=False).vmin == -3
    white = matplotlib.colormaps[style.GAIN_HEAT](scale(0.0))[:3]
    assert min(white) > 0.95


def test_each_cell_with_a_value_says_it_and_no_other() -> None:
    _, (axes,) = drawing.panels(3.0, 2.0)
    image = drawing.heat_map(axes, GRID, drawing.shades(GRID))
    drawing.write_cells(image, GRID, GRID * 0 + 0.25, signed=True)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts == {
        (0, 0): "+1.00\n± 0.25", (1, 0): "-3.00\n± 0.25", (2, 0): "+0.50\n± 0.25",
        (1, 1): "+2.00\n± 0.25", (2, 1): "+4.00\n± 0.25",
    }  # fmt: skip


@pytest.mark.parametrize("colours", [style.HEAT, style.GAIN_HEAT])
def test_letters_differ_in_brightness_from_the_cell_below_them(colours: str) -> None:
    grid = DataFrame([np.linspace(-1, 1, 21)])
    _, (axes,) = drawing.panels(6.0, 1.0)
    image = drawing.heat_map(axes, grid, drawing.shades(grid), colours)
    drawing.write_cells(image, grid, grid * math.nan)
    weights = np.array([0.299, 0.587, 0.114])
    for text, value in zip(axes.texts, grid.iloc[0], strict=True):
        below = weights @ np.array(image.cmap(image.norm(value))[:3])
        assert abs(weights @ np.array(to_rgb(text.get_color())) - below) > 0.4


def test_panels_are_side_by_side_or_stacked() -> None:
    rows = {
        columns: [
            axes.get_subplotspec().rowspan.start
            for axes in drawing.panels(6.0, 3.0, 4, columns=columns)[1]
        ]
        for columns in (None, 1, 2)
    }
    assert rows == {None: [0, 0, 0, 0], 1: [0, 1, 2, 3], 2: [0, 0, 1, 1]}


def test_panels_of_a_row_share_their_vertical_axis_alone() -> None:
    _, (first, second, third, _) = drawing.panels(6.0, 3.0, 4, columns=2)
    first.set_ylim(0, 9)
    assert second.get_ylim() == (0, 9) != third.get_ylim()
