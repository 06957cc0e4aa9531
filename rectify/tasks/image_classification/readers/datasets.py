"""Labelled images in tables of the Hugging Face hub: see ``rectify.tasks.tables``."""

import logging
from pathlib import Path

from rectify.tasks import tables
from rectify.tasks.image_classification.folders import check_classes, check_present, label_of
from rectify.tasks.readers import Row, few
from rectify.tasks.splits import both, check_not_divided, divided, role

EMBEDDED = IN_MEMORY = False

log = logging.getLogger(__name__)


def read(
    folder: Path,
    *,
    image: str | None = None,
    label: str | None = None,
    seed: int | None = None,
    train_share: float | None = None,
) -> list[Row]:
    """Return the items of training and test.

    Args:
        folder: Of ``save_to_disk``, or with Parquet files.
        image: Column of the images, where there are several.
        label: Column of their classes, numbers or texts, where there are several.
        seed: Of the division of a set without a test; 0 by default.
        train_share: Share of each class that is then for training; 0.8 by default.

    Raises:
        ValueError: If there is no such table or column, an item has no label, or a class has no
            items.
    """
    check_present(folder, [folder], "the tables")
    splits = tables.parts(folder)
    known = tables.columns([file for files in splits.values() for file in files])
    pixels = tables.chosen(folder, known, "image", (tables.IMAGE,), image)
    kinds = (tables.LABEL, tables.NUMBER, tables.TEXT)
    labels = tables.chosen(folder, known, "label", kinds, label)
    found: dict[str, list[tuple]] = {}
    for split, files in splits.items():
        items = [*tables.items(folder, files, pixels.name, labels.name)]
        part = role(split) if len(splits) > 1 else ""
        if part is None or all(value in (None, -1) for _, value in items):
            log.info("%s: left out: %s, without labels or of another name", folder, split)
        elif part in found:
            raise ValueError(
                f"{folder}: each split must be there once, got two for {part}, {few([*splits])}. "
                "Move one away."
            )
        else:
            found[part] = items
    training, test = both(folder, found)
    classes = _classes(training, labels)
    rows = _rows(folder, "train", training, labels, classes)
    if test is None:
        rows = divided(folder, rows, seed, train_share)
    else:
        check_not_divided(folder, seed, train_share)
        rows += _rows(folder, "test", test, labels, classes)
    check_classes(folder, rows, classes)
    return rows


def _classes(items: list[tuple], labels: tables.Column) -> list[str]:
    """Return the names of the classes of training, in the order of their numbers or letters."""
    values = {value for _, value in items if value is not None}
    return [_name(value, labels) for value in sorted(values)]


def _name(value: int | str, labels: tables.Column) -> str:
    if not labels.classes:
        return str(value)
    return labels.classes[value] if 0 <= value < len(labels.classes) else f"{value}"


def _rows(
    folder: Path, split: str, items: list[tuple], labels: tables.Column, classes: list[str]
) -> list[Row]:
    without = [source for source, value in items if value in (None, "", -1)]
    if without:
        raise ValueError(
            f"{folder}: each image must have a class in {labels.name}, got none for "
            f"{len(without)}: {few(without)}. Complete the table."
        )
    numbers = {name: number for number, name in enumerate(classes)}
    rows = []
    for source, value in items:
        name = _name(value, labels)
        label = numbers[name] if name in numbers else label_of(name, classes, folder / source)
        rows.append(Row(split, label, name, source))
    return rows
