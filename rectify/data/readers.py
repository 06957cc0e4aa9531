"""Published data sets, read from the files as they are distributed: docs/data.md.

CIFAR-100 is small and becomes an in-memory set. Of the others a reader returns the manifest:
split, label, class name and file of each item; a file's name is relative to the folder. What
lies beside the images is left out and logged.
"""

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct
from pandas import DataFrame

from rectify.data.images import ImageSet, few, manifest
from rectify.records import read_json
from rectify.runtime import generator

CIFAR100_MD5 = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
EXTRA = ("gaussian_blur", "saturate", "spatter", "speckle_noise")
"""Corruptions that come with ImageNet-C and are not among its fifteen."""
SEVERITIES = ("1", "2", "3", "4", "5")

log = logging.getLogger(__name__)

Row = tuple[str, int, str, str]


def cifar100(folder: Path, digests: Mapping[str, str] = CIFAR100_MD5) -> dict[str, ImageSet]:
    """Return train and test of CIFAR-100 from its Python version.

    Args:
        folder: Holds the files ``train``, ``test`` and ``meta``.
        digests: MD5 of each file, checked before anything is unpickled.

    Raises:
        ValueError: If a file is missing or is not the published one.
    """
    source = "CIFAR-100, python version (https://www.cs.toronto.edu/~kriz/cifar.html)"
    _check_present(folder, [folder / name for name in digests], source)
    content = {name: _unpickled(folder / name, digest) for name, digest in digests.items()}
    classes = tuple(content["meta"]["fine_label_names"])
    sets = {}
    for split in ("train", "test"):
        data = content[split]
        images = torch.from_numpy(np.array(data["data"])).reshape(-1, 3, 32, 32)
        sources = tuple(f"{split}/{name}" for name in data["filenames"])
        sets[split] = ImageSet(images, torch.tensor(data["fine_labels"]), classes, sources)
    return sets


def image_folders(folder: Path, shifts: Mapping[str, str] | None = None) -> DataFrame:
    """Return the manifest of ``train/<class>/*`` and ``val/<class>/*``, ImageNet's layout.

    Args:
        folder: Holds ``train`` and ``val``; the latter becomes the split ``test``.
        shifts: Folders of shifted test sets: ``c`` with ``<corruption>/<severity>/<class>/*``;
            ``a``, ``sk`` and ``r`` with ``<class>/*``. Their classes may be fewer.

    Raises:
        ValueError: If a folder, a class or a shifted set is missing or empty, or a class is
            unknown.
    """
    source = "ImageNet, ILSVRC 2012 (https://image-net.org), one folder of images per class"
    _check_present(folder, [folder / "train", folder / "val"], source)
    classes = [path.name for path in _folders(folder / "train")]
    rows = [*_class_rows(folder, folder / "train", "train", classes)]
    rows += _class_rows(folder, folder / "val", "test", classes)
    _check_classes(folder, rows, classes)
    for shift, name in (shifts or {}).items():
        _check_present(Path(name), [Path(name)], f"ImageNet-{shift.upper()}")
        for split, place in _conditions(f"test-{shift}", Path(name)):
            found = [*_class_rows(folder, place, split, classes)]
            _check_some(place, found)
            rows += found
    return manifest(rows)


def bar(folder: Path) -> DataFrame:
    """Return the manifest of BAR: ``train`` and ``test`` with files ``<class>_<n>.<suffix>``.

    Where ``metadata.json`` lies beside them, class and split of every file must agree with it.

    Raises:
        ValueError: If a folder or a class is missing, or the metadata tell another story.
    """
    source = "BAR, Biased Action Recognition (https://github.com/alinlab/BAR)"
    _check_present(folder, [folder / "train", folder / "test"], source)
    files = {split: _images(folder / split) for split in ("train", "test")}
    classes = sorted({_action(name) for name in files["train"]})
    rows = [
        (
            split,
            _label(_action(name), classes, folder / split / name),
            _action(name),
            f"{split}/{name}",
        )
        for split, names in files.items()
        for name in names
    ]
    _check_classes(folder, rows, classes)
    if (folder / "metadata.json").is_file():
        _check_metadata(folder / "metadata.json", rows)
    return manifest(rows)


def caltech256(folder: Path, seed: int = 0, train_share: float = 0.7) -> DataFrame:
    """Return the manifest of Caltech-256 without clutter, split class by class.

    Args:
        folder: ``256_ObjectCategories`` with ``<number>.<class>/*.jpg``; other files are left out.
        seed: Of the split.
        train_share: Share of each class that is for training; the paper has 7:3.

    Raises:
        ValueError: If the folder is missing or a class has too few images.
    """
    source = "Caltech-256 (https://data.caltech.edu/records/nyy15-4j048)"
    _check_present(folder, [folder], source)
    places = [path for path in _folders(folder) if "." in path.name and "clutter" not in path.name]
    rows: list[Row] = []
    for label, place in enumerate(places):
        files = _images(place, (".jpg",))
        order = torch.randperm(len(files), generator=generator(seed, "caltech256", place.name))
        cut = round(train_share * len(files))
        for rank, item in enumerate(order.tolist()):
            split = "train" if rank < cut else "test"
            name = place.name.partition(".")[2]
            rows.append((split, label, name, f"{place.name}/{files[item]}"))
    rows.sort(key=lambda row: (row[0] != "train", row[3]))
    _check_classes(folder, rows, [place.name.partition(".")[2] for place in places])
    return manifest(rows)


class _Restricted(pickle.Unpickler):
    """Builds arrays and plain values, and refuses everything else without running it."""

    ALLOWED: Mapping[tuple[str, str], Callable] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        # files of 2009 hold numbers where NumPy wants to see bool
        ("numpy", "dtype"): lambda kind, align, copy: np.dtype(kind, bool(align), bool(copy)),
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.ALLOWED[module, name]


def _unpickled(path: Path, digest: str) -> dict[str, Any]:
    content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != digest:
        raise ValueError(f"{path}: MD5 must be {digest}, got {found}. Download the file again.")
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: must hold arrays and plain values, got {error}. Don't use this file."
        ) from None


def _check_present(folder: Path, needed: list[Path], source: str) -> None:
    missing = [path for path in needed if not path.exists()]
    if missing:
        raise ValueError(
            f"{folder}: must hold the data set, got no {missing[0]}. Get {source} and unpack it "
            "there, or correct the folder in the config."
        )


def _check_classes(folder: Path, rows: list[Row], classes: list[str]) -> None:
    if not classes:
        raise ValueError(
            f"{folder}: must hold images of every class, got no class at all. Unpack the data set "
            "there, or correct the folder in the config."
        )
    for split in ("train", "test"):
        missing = sorted(set(classes) - {row[2] for row in rows if row[0] == split})
        if missing:
            raise ValueError(
                f"{folder}: all {len(classes)} classes must have images in {split}, got none for "
                f"{len(missing)}: {few(missing)}. Complete the folder."
            )


def _check_some(place: Path, rows: list[Row]) -> None:
    if not rows:
        raise ValueError(
            f"{place}: must hold one folder of images per class, got no image. Complete the folder."
        )


def _check_metadata(path: Path, rows: list[Row]) -> None:
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.items())):
        raise ValueError(
            f"{path}: must give cls and train of each file by its name, got something else. "
            "Get the data set again."
        )
    told = {stem: (entry["train"], entry["cls"]) for stem, entry in entries.items()}
    found = {Path(row[3]).stem: (row[0] == "train", row[2]) for row in rows}
    wrong = sorted(stem for stem in told.keys() | found.keys() if told.get(stem) != found.get(stem))
    if wrong:
        raise ValueError(
            f"{path}: class and split of each file must be as listed, got {len(wrong)} missing, "
            f"unlisted or in another place: {few(wrong)}. Get the data set again."
        )


def _is_entry(item: tuple[str, Any]) -> bool:
    stem, entry = item
    return stem.isprintable() and isinstance(entry, dict) and {"cls", "train"} <= entry.keys()


def _conditions(split: str, folder: Path) -> Iterator[tuple[str, Path]]:
    if split != "test-c":
        yield split, folder
        return
    for corruption in _folders(folder):
        if corruption.name in EXTRA:
            log.info("%s: left out, none of the fifteen corruptions", corruption)
            continue
        for severity in _folders(corruption):
            if severity.name not in SEVERITIES:
                raise ValueError(
                    f"{severity}: a corruption must have folders 1 to 5, got {severity.name!r}. "
                    "Arrange the set as <corruption>/<severity>/<class>/*."
                )
            yield f"{split}/{corruption.name}/{severity.name}", severity


def _class_rows(folder: Path, place: Path, split: str, classes: list[str]) -> Iterator[Row]:
    for path in _folders(place):
        label, relative = _label(path.name, classes, path), _from(folder, path)
        for name in _images(path):
            yield split, label, path.name, f"{relative}/{name}"


def _from(folder: Path, path: Path) -> str:
    """Name a path from a folder; one outside of it from where the folder lies, if it is a link."""
    if path.is_relative_to(folder):
        return f"{path.relative_to(folder)}"
    return os.path.relpath(path.absolute(), os.path.realpath(folder))


def _label(name: str, classes: list[str], path: Path) -> int:
    if name not in classes:
        raise ValueError(
            f"{path}: class must be one of the {len(classes)} in training, got {name!r}. "
            "Move it away or complete the training folder."
        )
    return classes.index(name)


def _action(name: str) -> str:
    return name.rpartition("_")[0]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _images(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """Return the names of the images in a folder, sorted."""
    with os.scandir(folder) as entries:
        kept = {entry.name: _is_named_as_image(entry, suffixes) for entry in entries}
    strays = sorted(name for name, image in kept.items() if not image)
    if strays:
        log.info("%s: left out %d that are no images: %s", folder, len(strays), few(strays))
    return sorted(name for name, image in kept.items() if image)


def _is_named_as_image(entry: os.DirEntry, suffixes: tuple[str, ...]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    return suffix in suffixes and not entry.name.startswith(".") and entry.is_file()
