"""Caltech-256 without clutter, split class by class into training and test."""

from pathlib import Path

from rectify.tasks.image_classification.folders import (
    check_classes,
    check_present,
    folders,
    images,
)
from rectify.tasks.readers import Row

EMBEDDED = IN_MEMORY = False
COMPLETE = {("train", "test"): 29_780}


def read(folder: Path, *, seed: int = 0, train_share: float = 0.7) -> list[Row]:
    """Return the items of training and test.

    Args:
        folder: ``256_ObjectCategories`` with ``<number>.<class>/*.jpg``; other files are left out.
        seed: Of the split.
        train_share: Share of each class that is for training; the paper has 7:3.

    Raises:
        ValueError: If the folder is missing or a class has too few images.
    """
    import torch

    from rectify.runtime import generator

    source = "Caltech-256 (https://data.caltech.edu/records/nyy15-4j048)"
    check_present(folder, [folder], source)
    places = [path for path in folders(folder) if "." in path.name and "clutter" not in path.name]
    classes = [place.name.partition(".")[2] for place in places]
    rows = []
    for label, place in enumerate(places):
        files = images(place, (".jpg",))
        order = torch.randperm(len(files), generator=generator(seed, "caltech256", place.name))
        cut = round(train_share * len(files))
        for rank, item in enumerate(order.tolist()):
            split = "train" if rank < cut else "test"
            rows.append(Row(split, label, classes[label], f"{place.name}/{files[item]}"))
    rows.sort(key=lambda row: (row.split != "train", row.source))
    check_classes(folder, rows, classes)
    return rows
