"""A folder of images with a list ``captions.csv`` of file and caption."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rectify.tasks.readers import Row

EMBEDDED = IN_MEMORY = False
COMPLETE = {("pairs",): 1_024}  # of WIT, as Huh et al. (2024) chose them
COLUMNS = ["file", "caption"]


class Line(NamedTuple):
    """A record of the list: where it begins, and its cells."""

    number: int
    cells: list[str]


def read(folder: Path) -> list[Row]:
    """Return the pairs in the order of the list.

    Raises:
        ValueError: If there is no such list, or it has other columns, no line, a line of other
            than two cells, an empty cell, a stray or open quote, a file outside the folder, or a
            file twice.
    """
    path = Path(folder) / "captions.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: must list image files and captions, got no file. Put image-caption pairs "
            "there (the paper's kind: 1,024 of WIT, Wikipedia-based Image Text, by Huh et al.)."
        )
    records = lines(path)
    columns = next(records, Line(1, [])).cells
    if columns != COLUMNS:
        given = ", ".join(map(repr, columns)) or "none"
        raise ValueError(
            f"{path}: columns must be file, caption, got {given}. Correct the first line."
        )
    rows: dict[str, Row] = {}
    numbers: dict[str, int] = {}
    for line in records:
        _check(path, line)
        file, caption = line.cells[0], same_ends(line.cells[1]).strip()
        place = os.path.normpath(file)
        if place in rows:
            raise ValueError(
                f"{path}: each image must have one caption, got {file!r} in lines "
                f"{numbers[place]} and {line.number}. Keep one: copies are each other's neighbours."
            )
        rows[place], numbers[place] = Row("pairs", -1, caption, file), line.number
    if not rows:
        raise ValueError(f"{path}: must list image files and captions, got no line. Complete it.")
    return list(rows.values())


def lines(path: Path) -> Iterator[Line]:
    """Give the records of the list, without blank lines."""
    begin = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for cells in reader:
                if cells:
                    yield Line(begin, cells)
                begin = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error.reason}. Save it as UTF-8.") from None
    except csv.Error as error:
        raise ValueError(
            f"{path}: line {begin} must be a file and a caption, got {error}. Put a caption with "
            'commas or quotes between quotes, and write "" for a quote in it.'
        ) from None


def _check(path: Path, line: Line) -> None:
    """Check one record: two cells that say something, and no sign of a misplaced quote."""
    cells = line.cells
    if len(cells) != len(COLUMNS):
        raise ValueError(
            f"{path}: each line must have a file and a caption, got {len(cells)} cells in line "
            f"{line.number}. Put a caption with commas between quotes, right after the comma."
        )
    if not all(cell.strip() for cell in cells):
        raise ValueError(
            f"{path}: each line must have a file and a caption, got an empty one in line "
            f"{line.number}. Complete or delete it."
        )
    file, caption = cells
    if caption[0].isspace() and caption.lstrip().startswith('"'):
        raise ValueError(
            f"{path}: a quote must follow its comma at once, got a space between them in line "
            f"{line.number}. Delete the space."
        )
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise ValueError(
            f"{path}: each file must lie in the folder of the list, got {file!r} in line "
            f"{line.number}. Put the images next to the list and name them from there."
        )
    for more, text in enumerate(same_ends(caption).split("\n")[1:], 1):
        name, comma, _ = text.partition(",")
        if comma and name.strip() and os.path.isfile(path.parent / name):
            raise ValueError(
                f"{path}: a caption must end before the next file, got {name!r} within that of "
                f"line {line.number}, {more} lines on. Close its quote."
            )


def same_ends(caption: str) -> str:
    r"""End the lines of a caption as the manifest's: pandas does not quote a lone ``\r``."""
    return caption.replace("\r\n", "\n").replace("\r", "\n")
