"""One look for all figures: sizes, colours that colour-blind readers can tell apart.

A position has the same colour in every figure (Okabe and Ito's palette); those of variants and
controls are in their registry.
Widths are those of one and two columns of a printed page, in inches. The font comes with
matplotlib, so that a figure has the same bytes on every machine.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1d232b"
"""Of texts, axes, and marks without a colour of their own."""
SOFT, LINE = "#4d4d4d", "#e3e3e3"
AT_NIGHT = {INK: "#e4e8ed", SOFT: "#9aa6b3", LINE: "#36404c"}
"""What takes the place of greys on a dark page: its colours of text, notes and lines."""

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
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LINE,
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
    "svg.hashsalt": "rectify",  # names within a file, the same every time
}


UNDATED = {".pdf": {"CreationDate": None}, ".png": {"Software": None}, ".svg": {"Date": None}}
"""Formats of figures, and what is left out of their files."""


@contextmanager
def look() -> Iterator[None]:
    """Make and save figures in this style inside the block, whatever the user's settings are."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(PARAMETERS)
        yield


def save(figure: "Figure", path: Path) -> None:
    """Write a figure in the format of its suffix, one of `UNDATED`: the same bytes every time."""
    is_shown = path.suffix == ".svg"  # on a page, whose background is below it
    with look():
        figure.savefig(path, metadata=UNDATED[path.suffix], transparent=is_shown)
    if is_shown:
        path.write_text(with_night(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_night(svg: str) -> str:
    """Return an SVG of matplotlib whose greys follow a reader's dark setting, also as an image.

    Where that is unknown, in print or in other programs, its colours are those of the PDF.
    """
    rules = "".join(
        f'[style*="{kind}: {day}"] {{ {kind}: {night} !important }}\n'
        for day, night in AT_NIGHT.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme: dark) {{\n{rules}}}</style>"
    return svg.replace("</svg>", f"{style}\n</svg>")


def of_position(position: str, index: int) -> tuple[str, str]:
    """Return colour and marker of a position; those of a number go by its place in a list."""
    if position in POSITION_COLOURS:
        return POSITION_COLOURS[position], POSITION_MARKERS[position]
    return OTHER_COLOURS[index % len(OTHER_COLOURS)], OTHER_MARKERS[index % len(OTHER_MARKERS)]
