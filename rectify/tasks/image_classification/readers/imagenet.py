"""ImageNet's layout: ``train/<class>/*`` and ``val/<class>/*``, and the layouts of its shifts.

The images of ``val`` may lie there without folders, as ILSVRC packs them, if a list of their
synsets lies next to ``val`` or in it: one a line in the order of the images, or file and synset.

The test sets -A, -Sketch and -R are ``<class>/*``; ImageNet-C is
``<corruption>/<severity>/<class>/*``. The classes of a shifted set may be fewer.
"""

import logging
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_classification.folders import (
    check_classes,
    check_present,
    class_rows,
    folders,
    images,
    label_of,
    read_text,
)
from rectify.tasks.readers import Row, check_count, few

if TYPE_CHECKING:
    from pandas import DataFrame

EMBEDDED = IN_MEMORY = False
COMPLETE = {
    ("train",): 1_281_167,
    ("test",): 50_000,
    ("test-c",): 15 * 5 * 50_000,
    ("test-a",): 7_500,
    ("test-sk",): 50_889,
    ("test-r",): 30_000,
}
MASKS = {50: 752, 300: 4_097, 919: 12_419}
"""Of validation images, in the three sizes of ImageNet-S, by their classes."""
SYNSETS = {
    "train": "imagenet_synsets.txt",
    "test-a": "imagenet_a_synsets.txt",
    "test-sk": "imagenet_synsets.txt",
    "test-r": "imagenet_r_synsets.txt",
}
"""By split: the list of its classes that timm has."""
CORRUPTIONS = (
    *("brightness", "contrast", "defocus_blur", "elastic_transform", "fog", "frost"),
    *("gaussian_noise", "glass_blur", "impulse_noise", "jpeg_compression", "motion_blur"),
    *("pixelate", "shot_noise", "snow", "zoom_blur"),
)
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Corruptions that come with ImageNet-C and are not among its fifteen."""
SEVERITIES = ("1", "2", "3", "4", "5")

SYNSET_LIST = "imagenet_2012_validation_synset_labels.txt"
"""Of the validation images without folders, as it goes around."""

log = logging.getLogger(__name__)


def read(folder: Path) -> list[Row]:
    """Return the items of training, and those of ``val`` as the test.

    Raises:
        ValueError: If a folder or a class is missing or empty, or a class is unknown.
    """
    source = "ImageNet, ILSVRC 2012 (https://image-net.org), one folder of images per class"
    check_present(folder, [folder / "train", folder / "val"], source)
    classes = _classes(folder)
    rows = [*class_rows(folder, "train", "train", classes)]
    if folders(folder / "val"):
        rows += class_rows(folder, "val", "test", classes)
    else:
        rows += _flat_rows(folder, classes)
    check_classes(folder, rows, classes)
    return rows


def read_shift(folder: Path, shift: str, place: Path) -> list[Row]:
    """Return the items of a shifted test set; its labels are those of training.

    Args:
        folder: Of ImageNet.
        shift: ``c``, ``a``, ``sk`` or ``r``.
        place: Folder of the shifted set; sources are named from here.

    Raises:
        ValueError: If the set or one of its conditions is missing or empty, or a class is unknown.
    """
    check_present(folder, [folder / "train"], "ImageNet")
    check_present(place, [place], f"ImageNet-{shift.upper()}")
    classes, rows = _classes(folder), []
    for split, inside in _conditions(f"test-{shift}", place):
        added = [*class_rows(place, inside, split, classes)]
        if not added:
            raise ValueError(
                f"{place / inside}: must hold one folder of images per class, got no image. "
                "Complete the folder."
            )
        rows += added
    return rows


def check(data: str, listing: "DataFrame") -> None:
    """Check the classes of each split, and the conditions of ImageNet-C.

    Raises:
        ValueError: Names the first list that differs from the published one.
    """
    kinds = listing["split"].str.partition("/")[0]
    for split in sorted(SYNSETS.keys() & set(kinds)):
        wrong = sorted(set(listing.loc[kinds == split, "name"]) ^ set(synsets(split)))
        check_count(data, f"the published classes in {split}", few(wrong) or "them", "them")
    conditions = {split for split in listing["split"] if split.startswith("test-c/")}
    if conditions:
        published = {f"test-c/{name}/{level}" for name in CORRUPTIONS for level in SEVERITIES}
        wrong = sorted(conditions ^ published)
        check_count(data, "15 corruptions in 5 severities", few(wrong) or "them", "them")


def synsets(split: str) -> list[str]:
    """Return the class folders of a split of ImageNet or of a shifted set, sorted."""
    text = (resources.files("timm.data") / "_info" / SYNSETS[split]).read_text(encoding="utf-8")
    return sorted(text.split())


def _classes(folder: Path) -> list[str]:
    return [path.name for path in folders(folder / "train")]


def _flat_rows(folder: Path, classes: list[str]) -> list[Row]:
    """Return the validation images that lie in no folder, with the classes of a list."""
    files = images(folder / "val")
    if not files:
        return []
    places = [folder / SYNSET_LIST, folder / "val" / SYNSET_LIST]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(
            f"{folder / 'val'}: must have one folder of images per class, got {len(files)} images "
            f"without folders. Put their synsets, one a line in the order of the images, into "
            f"{places[0]}, or sort the images into folders."
        )
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    if all(len(line) == 1 for line in lines) and len(lines) == len(files):
        lines = [[file, *line] for file, line in zip(files, lines, strict=True)]
    if not all(len(line) == 2 for line in lines) or sorted(line[0] for line in lines) != files:
        raise ValueError(
            f"{path}: must have a synset, or a file and its synset, for each of the {len(files)} "
            f"images, got {len(lines)} lines that do not fit them. Complete the list."
        )
    return [
        Row("test", label_of(name, classes, path), name, f"val/{file}")
        for file, name in sorted(map(tuple, lines))
    ]


def _conditions(split: str, place: Path) -> Iterator[tuple[str, str]]:
    """Give each condition's split and its path inside the shifted set."""
    if split != "test-c":
        yield split, ""
        return
    for corruption in folders(place):
        if corruption.name in EXTRA:
            log.info("%s: left out, none of the fifteen corruptions", corruption)
            continue
        for severity in folders(corruption):
            if severity.name not in SEVERITIES:
                raise ValueError(
                    f"{severity}: a corruption must have folders 1 to 5, got {severity.name!r}. "
                    "Arrange the set as <corruption>/<severity>/<class>/*."
                )
            condition = f"{corruption.name}/{severity.name}"
            yield f"{split}/{condition}", condition
