"""CIFAR-100 from its Python version: small, and so kept in memory."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED, IN_MEMORY = False, True
COMPLETE = {("train",): 50_000, ("test",): 10_000}
MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""Digest of each file, checked before anything is unpickled."""


def read(folder: Path) -> "dict[str, ImageSet]":
    """Return train and test from the files ``train``, ``test`` and ``meta``.

    Raises:
        ValueError: If a file is missing or is not the published one.
    """
    import numpy as np
    import torch

    from rectify.data.pickles import unpickled
    from rectify.data.sets import ImageSet

    source = "CIFAR-100, python version (https://www.cs.toronto.edu/~kriz/cifar.html)"
    check_present(folder, [folder / name for name in MD5], source)
    content = {name: unpickled(folder / name, digest) for name, digest in MD5.items()}
    classes = tuple(content["meta"]["fine_label_names"])
    sets = {}
    for split in ("train", "test"):
        data: Mapping = content[split]
        images = torch.from_numpy(np.array(data["data"])).reshape(-1, 3, 32, 32)
        sources = tuple(f"{split}/{name}" for name in data["filenames"])
        sets[split] = ImageSet(images, torch.tensor(data["fine_labels"]), classes, sources)
    return sets
