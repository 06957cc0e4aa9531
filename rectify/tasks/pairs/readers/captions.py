"""A folder of images with a list ``captions.csv`` of file and caption."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rectify.tasks.readers import Row

EMBEDDED = IN_MEMORY = False
COMPLETE = {("pairs",): 1_024}  # of WIT, as Huh et al. (2024) chose them


def read(folder: Path) -> list[Row]:
    """Return the pairs in the order of the list.

    Raises:
        ValueError: If there is no such list, or it has other columns, no line, an empty cell,
            or a file outside the folder.
    """
    path = Path(folder) / "captions.csv"
    if not path.is_file():
        raise ValueError(
            f"{path}: must list image files and captions, got no file. Put image-caption pairs "
            "there (the paper's kind: 1,024 of WIT, Wikipedia-based Image Text, by Huh et al.)."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns, lines = list(reader.fieldnames or []), list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error.reason}. Save it as UTF-8.") from None
    if columns != ["file", "caption"]:
        given = ", ".join(map(repr, columns)) or "none"
        raise ValueError(
            f"{path}: columns must be file, caption, got {given}. Correct the first line."
        )
    if not lines:
        raise ValueError(f"{path}: must list image files and captions, got no line. Complete it.")
    empty = [number for number, line in enumerate(lines, 2) if not all(line.values())]
    if empty:
        raise ValueError(
            f"{path}: each line must have a file and a caption, got an empty one in line "
            f"{empty[0]}. Complete or delete it."
        )
    _check_inside(path, [line["file"] for line in lines])
    return [Row("pairs", -1, _same_ends(line["caption"]), line["file"]) for line in lines]


def _same_ends(caption: str) -> str:
    r"""End the lines of a caption as the manifest's: pandas does not quote a lone ``\r``."""
    return caption.replace("\r\n", "\n").replace("\r", "\n")


def _check_inside(path: Path, files: Sequence[str]) -> None:
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ValueError(
            f"{path}: each file must lie in the folder of the list, got {outside[0]!r}. "
            "Put the images next to the list and name them from there."
        )
