"""One look for all figures: sizes, colours that colour-blind readers can tell apart.

A position has the same colour in every figure (Okabe and Ito's palette); those of variants and
controls are in their registry.
Widths are those of one and two columns of a printed page, in inches. The font comes with
matplotlib, so that a figure has the same bytes on every machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager

COLUMN = 3.4
PAGE = 7.0
DPI = 200

POSITION_COLOURS = {"early": "#e69f00", "middle": "#009e73", "end": "#0072b2"}
POSITION_MARKERS = {"early": "s", "middle": "^", "end": "o"}
OTHER_COLOURS = ("#cc79a7", "#d55e00", "#56b4e9", "#999999")  # of positions that are numbers
OTHER_MARKERS = ("D", "v", "P", "X")
SERIES = (("#0072b2", "o"), ("#d55e00", "s"), ("#009e73", "^"), ("#cc79a7", "D"))
"""Colours and markers of what has none of its own."""
HEAT = "viridis"  # even in brightness, so it also survives a black-and-white print
GAIN_HEAT = "RdBu"  # white at zero, blue where there is a gain

PARAMETERS = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.0,
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
    "axes.formatter.limits": (-3, 4),
    "axes.formatter.use_mathtext": True,
    "axes.unicode_minus": True,
    "pdf.fonttype": 42,
}


@contextmanager
def look() -> Iterator[None]:
    """Make and save figures in this style inside the block, whatever the user's settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(PARAMETERS)
        yield


def of_position(position: str, index: int) -> tuple[str, str]:
    """Return colour and marker of a position; those of a number go by its place in a list."""
    if position in POSITION_COLOURS:
        return POSITION_COLOURS[position], POSITION_MARKERS[position]
    return OTHER_COLOURS[index % len(OTHER_COLOURS)], OTHER_MARKERS[index % len(OTHER_MARKERS)]
