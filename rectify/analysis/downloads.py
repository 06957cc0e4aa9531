"""The files behind the tables and figures of a page: inside the page, or linked where they are.

A page that is mailed has its tables with it. Small files come first, until the page is full; a
link to any other leads to the folder of results that the page lies in. A picture is on the page
already, so its link needs no second copy: the page's script has it save what is shown.
"""

import base64
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LIMIT = 5_500_000
"""Characters of a page that files may take, so that all of it stays below 6 MB."""
TYPES = {
    ".csv": "text/csv;charset=utf-8",
    ".md": "text/markdown;charset=utf-8",
    ".tex": "text/plain;charset=utf-8",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
TABLE_SUFFIXES = (".csv", ".md", ".tex")
SHOWN = ".svg"
FIGURE_SUFFIXES = (".csv", ".pdf", ".png", SHOWN)


class Download(NamedTuple):
    """A link to a file."""

    name: str
    suffix: str
    """Without its dot."""
    address: str
    """The content itself (a data URI), or the path from the page's folder."""
    is_inside: bool
    text: str
    """What it is, e.g. "figures/figure2.pdf, 12 kB"."""


def family(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of one name with these suffixes.

    Raises:
        ValueError: If one is missing.
    """
    paths = [path.with_suffix(suffix) for suffix in suffixes]
    for missing in (path for path in paths if not path.is_file()):
        raise ValueError(f"{missing}: must exist, got no file. Make the table or figure first.")
    return paths


def downloads(paths: Sequence[Path], folder: Path, taken: int = 0) -> dict[Path, Download]:
    """Return a link to each file.

    Args:
        paths: Files, pictures (`SHOWN`) among them, which take their room whether linked or not.
        folder: Of the page.
        taken: Characters of the page that others of its large parts take.
    """
    sizes = {path: path.stat().st_size for path in paths}
    taken += sum(_coded(size) for path, size in sizes.items() if path.suffix == SHOWN)
    links = {}
    for path in sorted(sizes, key=lambda path: (path.suffix == SHOWN, sizes[path])):
        taken += _coded(sizes[path])
        links[path] = _link(path, folder, path.suffix != SHOWN and taken <= LIMIT)
    return links


def data_uri(path: Path) -> str:
    """Return a file's content as an address."""
    coded = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:{TYPES[path.suffix]};base64,{coded}"


def _coded(size: int) -> int:
    """Return how many characters some bytes take in base 64."""
    return 4 * -(-size // 3)


def _link(path: Path, folder: Path, is_inside: bool) -> Download:
    address = data_uri(path) if is_inside else Path(os.path.relpath(path, folder)).as_posix()
    size = f"{-(-path.stat().st_size // 1000):,} kB"
    text = f"{path.parent.name}/{path.name}, {size}"
    return Download(path.name, path.suffix[1:], address, is_inside, text)
