"""Labelled images in folders that are named as their classes, as torchvision's ImageFolder.

train/<class>/*, test/<class>/*    or ``val``, ``valid``, ``validation``, ``dev`` as the test
<class>/*                          or a single split: divided class by class
"""

import logging
from pathlib import Path

from rectify.tasks.image_classification.folders import (
    SUFFIXES,
    check_classes,
    check_present,
    class_rows,
    folders,
)
from rectify.tasks.readers import Row, few
from rectify.tasks.splits import both, check_not_divided, divided, role

EMBEDDED = IN_MEMORY = False
READ = (*SUFFIXES, ".tif", ".tiff", ".ppm", ".pgm", ".jfif")

log = logging.getLogger(__name__)


def read(folder: Path, *, seed: int | None = None, train_share: float | None = None) -> list[Row]:
    """Return the items of training and test.

    Args:
        folder: With one folder of images per class, or such folders for each split.
        seed: Of the division of a set without a test; 0 by default.
        train_share: Share of each class that is then for training; 0.8 by default.

    Raises:
        ValueError: If there is no such folder, a class has no image that is read, or the test has
            another class.
    """
    check_present(folder, [folder], "a set with one folder of images per class")
    training, test = both(folder, _parts(folder))
    classes = [path.name for path in folders(folder / training)]
    rows = [*class_rows(folder, training, "train", classes, READ)]
    if test is None:
        rows = divided(folder, rows, seed, train_share)
    else:
        check_not_divided(folder, seed, train_share)
        rows += class_rows(folder, test, "test", classes, READ)
    check_classes(folder, rows, classes, READ)
    return rows


def _parts(folder: Path) -> dict[str, str]:
    """Return the folder of each split by its role, of those that have folders of classes.

    A class may be called as a split is, so that a folder without folders is no split.
    """
    parts: dict[str, str] = {}
    names = [path.name for path in folders(folder)]
    for name in names:
        part = role(name)
        if part is None or not folders(folder / name):
            continue
        if part in parts:
            raise ValueError(
                f"{folder}: each split must be there once, got {parts[part]} and {name}. Move one "
                "away."
            )
        parts[part] = name
    left_out = [name for name in names if parts and name not in parts.values()]
    if left_out:
        log.info("%s: left out, no split with folders of classes: %s", folder, few(left_out))
    if parts or not names:
        return parts or {"": ""}
    deep = [name for name in names if folders(folder / name)]
    if all(map(role, names)) or len(deep) == len(names):
        got = f"none in {few(names)}" if all(map(role, names)) else f"folders in {few(deep)}"
        raise ValueError(
            f"{folder}: must have one folder of images per class, got {got}. Sort the images into "
            "folders, or name the folder that holds these."
        )
    return {"": ""}
