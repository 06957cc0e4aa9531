"""Image-caption pairs in one fixed order, and the names that small language models read.

The embedded pairs show a character; its caption is the name that Unicode gives it, in small
letters ("greek small letter alpha"). Nothing but the pairing connects the two, as with
photographs and their captions.
"""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import torch
from pandas import DataFrame

from rectify.data.fonts import FACES, characters, draw, legible
from rectify.data.images import LISTING, ImageSet, manifest
from rectify.records import MANIFEST, read_table
from rectify.runtime import seed_for

SPLIT = "pairs"
FACE = FACES[0]
BASIC_PLANE = range(0x10000)
SYSTEMATIC = ("CJK ", "HANGUL SYLLABLE", "YI SYLLABLE", "VARIATION SELECTOR")
"""Beginnings of names that only count up."""


def pairs(*, image_size: int = 28, seed: int = 0, items: int = 1024) -> dict[str, ImageSet]:
    """Return pictures of distinct characters with their names, in an order drawn from the seed.

    Raises:
        ValueError: If the font has fewer characters.
    """
    drawn = _drawn(image_size, items, np.random.default_rng(seed_for(seed, SPLIT)))
    if len(drawn) < items:
        raise ValueError(
            f"pairs: items must not exceed the {len(drawn)} characters of {FACE.name}, "
            f"got {items}. Ask for fewer."
        )
    images = torch.from_numpy(np.stack(list(drawn.values())))[:, None]
    labels = torch.full((items,), -1)
    sources = tuple(f"U+{ord(one):04X} in {FACE.name}" for one in drawn)
    return {SPLIT: ImageSet(images, labels, (), sources, tuple(map(caption, drawn)))}


def caption(character: str) -> str:
    """Return the Unicode name of a character in small letters."""
    return unicodedata.name(character).lower()


def captions(folder: Path) -> list[str]:
    """Return the captions of prepared pairs, in the order of their images.

    Raises:
        ValueError: If the folder holds no pairs.
    """
    rows = read_table(MANIFEST, Path(folder) / LISTING)
    found = rows.loc[rows["split"] == SPLIT, "name"].tolist()
    if not found:
        raise ValueError(
            f"{folder}: must hold image-caption pairs, got splits "
            f"{', '.join(dict.fromkeys(rows['split']))}. Name a set of pairs."
        )
    return found


def names_corpus() -> list[str]:
    """Return each name of a character once, in the order of the code points.

    These are the characters of the faces and those of the basic plane, without the rows of
    ideographs and syllables whose names only count up.
    """
    covered = {ord(one) for face in FACES for one in characters(face)}
    named = (unicodedata.name(chr(code), "") for code in sorted(covered | set(BASIC_PLANE)))
    return [name.lower() for name in named if name and not name.startswith(SYSTEMATIC)]


def _drawn(image_size: int, items: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw characters in random order; none is too small, and no two look the same."""
    candidates = legible(FACE)
    seen: set[bytes] = set()
    images: dict[str, np.ndarray] = {}
    for place in random.permutation(len(candidates)):
        one = candidates[place]
        if len(images) < items:
            image = draw(one, FACE, image_size)
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                images[one] = image
    return images


def caption_files(folder: Path) -> DataFrame:
    """Return the manifest of a folder with images and a ``captions.csv`` of file and caption.

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
            columns, rows = list(reader.fieldnames or []), list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error.reason}. Save it as UTF-8.") from None
    if columns != ["file", "caption"]:
        found = ", ".join(map(repr, columns)) or "none"
        raise ValueError(
            f"{path}: columns must be file, caption, got {found}. Correct the first line."
        )
    if not rows:
        raise ValueError(f"{path}: must list image files and captions, got no line. Complete it.")
    empty = [line for line, row in enumerate(rows, 2) if not row["file"] or not row["caption"]]
    if empty:
        raise ValueError(
            f"{path}: each line must have a file and a caption, got an empty one in line "
            f"{empty[0]}. Complete or delete it."
        )
    _check_inside(path, [row["file"] for row in rows])
    return manifest([(SPLIT, -1, _lines(row["caption"]), row["file"]) for row in rows])


def _lines(caption: str) -> str:
    r"""End the lines of a caption as the manifest's: pandas does not quote a lone ``\r``."""
    return caption.replace("\r\n", "\n").replace("\r", "\n")


def _check_inside(path: Path, files: list[str]) -> None:
    outside = [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise ValueError(
            f"{path}: each file must lie in the folder of the list, got {outside[0]!r}. "
            "Put the images beside the list and name them from there."
        )
