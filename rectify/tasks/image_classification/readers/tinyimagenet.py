"""Tiny ImageNet: ``train/<wnid>/images/*`` and ``val/images/*`` with ``val/val_annotations.txt``.

The images of ``test`` have no labels and are left out.
"""

from pathlib import Path

from rectify.tasks.image_classification.folders import (
    check_classes,
    check_present,
    folders,
    images,
    label_of,
    read_text,
)
from rectify.tasks.readers import Row

EMBEDDED = IN_MEMORY = False
COMPLETE = {("train",): 100_000, ("test",): 10_000}
ANNOTATIONS = "val_annotations.txt"


def read(folder: Path) -> list[Row]:
    """Return the items of training, and those of ``val`` as the test.

    Raises:
        ValueError: If a folder or a list is missing, or the list does not fit the images.
    """
    listed = folder / "val" / ANNOTATIONS
    source = "Tiny ImageNet (http://cs231n.stanford.edu/tiny-imagenet-200.zip)"
    check_present(folder, [folder / "train", folder / "val" / "images", listed], source)
    places = [path for path in folders(folder / "train") if (path / "images").is_dir()]
    classes = [path.name for path in places]
    rows = [
        Row("train", label, path.name, f"train/{path.name}/images/{name}")
        for label, path in enumerate(places)
        for name in images(path / "images")
    ]
    labels = _labels(listed)
    files = images(folder / "val" / "images")
    if sorted(labels) != files:
        wrong = sorted(labels.keys() ^ set(files))
        raise ValueError(
            f"{listed}: must have one line for each image of val/images, got {len(wrong)} without "
            f"the other, first {wrong[0]}. Get the data set again."
        )
    for name in files:
        label = label_of(labels[name], classes, listed)
        rows.append(Row("test", label, labels[name], f"val/images/{name}"))
    check_classes(folder, rows, classes)
    return rows


def _labels(path: Path) -> dict[str, str]:
    """Return the class of each validation image: the second of the cells between tabs."""
    labels: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        cells = line.split("\t")
        if len(cells) < 2 or cells[0] in labels:
            raise ValueError(
                f"{path}: each line must have a file of its own and its class, got {line!r} in "
                f"line {number}. Get the data set again."
            )
        labels[cells[0]] = cells[1]
    return labels
