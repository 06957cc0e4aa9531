"""Folders of image files: what lies in them, and what must.

Hidden files, and files that are no images, are left out and logged.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rectify.tasks.readers import Row, few

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

log = logging.getLogger(__name__)


def check_present(folder: Path, needed: Sequence[Path], source: str) -> None:
    """Check that files or folders of a set exist.

    Raises:
        ValueError: Names the first that is missing, and where the set comes from.
    """
    missing = [path for path in needed if not path.exists()]
    if missing:
        raise ValueError(
            f"{folder}: must hold the data set, got no {missing[0]}. Get {source} and unpack it "
            "there, or correct the folder in the config."
        )


def check_classes(
    folder: Path,
    rows: Sequence[Row],
    classes: Sequence[str],
    suffixes: tuple[str, ...] = SUFFIXES,
) -> None:
    """Check that every class has items for training and for the test.

    Args:
        folder: Of the set.
        rows: Its items.
        classes: Their names.
        suffixes: Of the files that are read; others are named where a class has no item.

    Raises:
        ValueError: If there is no class at all, or one without items.
    """
    if not classes:
        raise ValueError(
            f"{folder}: must hold images of every class, got no class at all"
            f"{_others(folder, suffixes)}. Unpack the data set there, or correct the folder in "
            "the config."
        )
    for split in ("train", "test"):
        missing = sorted(set(classes) - {row.name for row in rows if row.split == split})
        if missing:
            raise ValueError(
                f"{folder}: all {len(classes)} classes must have images in {split}, got none for "
                f"{len(missing)}: {few(missing)}{_others(folder, suffixes)}. Complete the folder."
            )


def class_rows(
    folder: Path,
    inside: str,
    split: str,
    classes: Sequence[str],
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Iterator[Row]:
    """Give the images of ``<folder>/<inside>/<class>/*``, class by class.

    Args:
        folder: Sources are named from here.
        inside: Path of the folder with one folder per class.
        split: Name of the split.
        classes: Of training, in the order of their labels.
        suffixes: Of the files that are read.

    Raises:
        ValueError: If a folder is named as no class.
    """
    for path in folders(folder / inside):
        label = label_of(path.name, classes, path)
        for name in images(path, suffixes):
            yield Row(split, label, path.name, f"{Path(inside, path.name, name)}")


def label_of(name: str, classes: Sequence[str], path: Path) -> int:
    """Return the label of a class.

    Raises:
        ValueError: If training does not have the class.
    """
    if name not in classes:
        raise ValueError(
            f"{path}: class must be one of the {len(classes)} in training, got {name!r}. "
            "Move it away or complete the training folder."
        )
    return list(classes).index(name)


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def images(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Return the names of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        kept = {entry.name: _is_named_as_image(entry, suffixes) for entry in entries}
    strays = sorted(name for name, image in kept.items() if not image)
    if strays:
        log.info("%s: left out %d that are no images: %s", folder, len(strays), few(strays))
    return sorted(name for name, image in kept.items() if image)


def read_text(path: Path) -> str:
    """Return the text of a list that lies with the images.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: must be UTF-8, got {error.reason}. Save it as UTF-8.") from None


def _others(folder: Path, suffixes: tuple[str, ...]) -> str:
    """Return what an error says of files in a folder, at any depth, that are not read."""
    names = (name for _, _, files in os.walk(folder) for name in files if name[0] != ".")
    found = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
    others = [f"{count} of {kind}" for kind, count in found.most_common() if kind not in suffixes]
    return f", and files that are not read: {few(others)}" if others else ""


def _is_named_as_image(entry: os.DirEntry, suffixes: tuple[str, ...]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in suffixes and not entry.name.startswith(".") and entry.is_file()
