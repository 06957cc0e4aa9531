"""Labelled images in one fixed order: held in memory, or read from files when asked for.

A prepared set is a folder. ``manifest.csv`` lists every item with its split, label and
origin; ``arrays.safetensors`` holds the images of a set that lies in memory. For a set of
files the note beside the manifest says where they are. Both kinds have ``images``, indexed
by a tensor of item numbers, and ``labels``.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pandas import DataFrame
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rectify.records import MANIFEST, atomic_path, read_note, read_table, write_table

ARRAYS, LISTING = "arrays.safetensors", "manifest.csv"
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is cut short, damaged, no image or absurdly large."""
SHOWN = 3  # names in a message
CHUNK = 10_000


@dataclass(frozen=True)
class ImageSet:
    """One split in memory; clips have an axis of frames after the items."""

    images: UInt8[Tensor, "items *frames channels height width"]
    labels: Int64[Tensor, " items"]
    """Index into ``classes``; -1 where an item has a caption instead."""
    classes: tuple[str, ...]
    sources: tuple[str, ...]
    """Where each item comes from, or how it was drawn."""
    captions: tuple[str, ...] = ()
    """One per item, or none at all."""

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.labels), len(self.sources)}
        assert len(lengths | ({len(self.captions)} if self.captions else set())) == 1, lengths

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        """Each item's caption, or the name of its class."""
        return list(self.captions) or [self.classes[label] for label in self.labels.tolist()]


class FileSet:
    """One split whose images stay in their files until they are asked for."""

    def __init__(self, folder: Path, manifest: DataFrame, split: str):
        rows = manifest[manifest["split"] == split]
        self.folder = Path(folder)
        self.sources = tuple(rows["source"])
        self.labels = torch.tensor(rows["label"].to_numpy(dtype="int64"))
        self.names = list(rows["name"])

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def images(self) -> "FileSet":
        """The set itself, so that it can stand where an ``ImageSet`` does."""
        return self

    def __getitem__(self, item: int | Tensor) -> Image.Image | list[Tensor]:
        """Return one RGB image, or for several items their ``uint8 (3, height, width)`` tensors."""
        if isinstance(item, int):
            return read_image(self.folder / self.sources[item])
        return [_as_tensor(self[index]) for index in item.tolist()]


def read_image(path: Path) -> Image.Image:
    """Return the image of a file as RGB, whatever its mode.

    Raises:
        ValueError: If the file is missing, cut short or no image.
    """
    try:
        with Image.open(path) as image:
            through = "RGBA" if "transparency" in image.info else "RGB"
            return image.convert(through).convert("RGB")
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: must be a whole image, got {str(error).splitlines()[0]}. "
            "Replace the file and prepare the data set again."
        ) from None


def unreadable(folder: Path, sources: Sequence[str], threads: int) -> list[str]:
    """Return the files that are missing or cannot be decoded to their end, in their order."""
    bad = []
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(sources), CHUNK):
            names = sources[start : start + CHUNK]
            whole = pool.map(lambda name: _is_whole(folder / name), names)
            bad += [name for name, good in zip(names, whole, strict=True) if not good]
    return bad


def few(names: Sequence[str]) -> str:
    """Return the first names of a list, as a message shows them."""
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"


def listing_of(sets: dict[str, ImageSet]) -> DataFrame:
    """Return the manifest of splits that lie in memory."""
    return manifest(
        [
            (split, *item)
            for split, images in sets.items()
            for item in zip(images.labels.tolist(), images.names, images.sources, strict=True)
        ]
    )


def save_sets(folder: Path, sets: dict[str, ImageSet], provenance: dict[str, Any]) -> None:
    """Write the splits of a set that lies in memory; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: Splits by name, all with the same classes.
        provenance: What ``rectify.provenance.provenance`` returned.
    """
    tensors = {}
    for split, images in sets.items():
        tensors |= {f"{split}.images": images.images, f"{split}.labels": images.labels}
    classes = next(iter(sets.values())).classes
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary, {"classes": json.dumps(classes, ensure_ascii=False)})
    _write_listing(folder, listing_of(sets), provenance)


def save_files(folder: Path, files: Path, listing: DataFrame, provenance: dict[str, Any]) -> None:
    """Write the manifest of a set whose images stay in the folder ``files``."""
    facts = {**provenance["facts"], "files": f"{files}"}
    _write_listing(folder, listing, {**provenance, "facts": facts})


def manifest(rows: list[tuple[str, int, str, str]]) -> DataFrame:
    """Return rows of split, label, name and source as a manifest, in their order."""
    return DataFrame([(item, *row) for item, row in enumerate(rows)], columns=MANIFEST.names)


def splits(folder: Path) -> list[str]:
    """Return the names of a prepared set's splits, in their order."""
    return list(dict.fromkeys(read_table(MANIFEST, Path(folder) / LISTING)["split"]))


def label_order(folder: Path) -> str:
    """Return a digest of which class has which number in the training split."""
    listing = read_table(MANIFEST, Path(folder) / LISTING)
    classes = listing.loc[listing["split"] == "train", ["label", "name"]].drop_duplicates()
    pairs = sorted(classes.itertuples(index=False, name=None))
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def load_set(folder: Path, split: str) -> ImageSet | FileSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    return _loaded(folder, *_read_listing(folder), split)


def load_sets(folder: Path, prefix: str) -> Iterator[tuple[str, ImageSet | FileSet]]:
    """Give name and items of each split whose name starts with ``prefix``, in their order."""
    listing, facts = _read_listing(folder)
    for split in dict.fromkeys(listing["split"]):
        if split.startswith(prefix):
            yield split, _loaded(folder, listing, facts, split)


def _write_listing(folder: Path, listing: DataFrame, provenance: dict[str, Any]) -> None:
    """Write the manifest; its note holds the digest of the file, which freezes the split."""
    text = listing.to_csv(index=False, lineterminator="\n")
    facts = {**provenance["facts"], "sha256": hashlib.sha256(text.encode()).hexdigest()}
    write_table(MANIFEST, listing, Path(folder) / LISTING, {**provenance, "facts": facts})


def _read_listing(folder: Path) -> tuple[DataFrame, dict[str, Any]]:
    """Return the manifest and the facts of its note; the two must belong together."""
    path = Path(folder) / LISTING
    listing, facts = read_table(MANIFEST, path), read_note(path)["provenance"]["facts"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != facts.get("sha256"):
        raise ValueError(
            f"{path}: the frozen split must have the SHA-256 of its note, {facts.get('sha256')}, "
            f"got {found}. Prepare the data set again."
        )
    return listing, facts


def _loaded(
    folder: Path, listing: DataFrame, facts: dict[str, Any], split: str
) -> ImageSet | FileSet:
    rows = listing[listing["split"] == split]
    if rows.empty:
        raise ValueError(
            f"{folder}: split must be one of {', '.join(dict.fromkeys(listing['split']))}, "
            f"got {split!r}. Ask for one of these, or prepare the data set again."
        )
    if "files" in facts:
        return FileSet(Path(facts["files"]), listing, split)
    images, labels, classes = _read_arrays(Path(folder) / ARRAYS, split)
    if labels.tolist() != rows["label"].tolist():
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got others. "
            "Prepare the data set again."
        )
    captions = () if classes else tuple(rows["name"])
    return ImageSet(images, labels, classes, tuple(rows["source"]), captions)


def _read_arrays(path: Path, split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            classes = tuple(json.loads(file.metadata()["classes"]))
            return file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"), classes
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{path}: must be a whole safetensors file with split {split}, got "
            f"{str(error).splitlines()[0]}. Prepare the data set again."
        ) from None


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1, 1))  # JPEG: to its end, but at an eighth of its size
            image.load()
            return True
    except UNREADABLE:
        return False


def _as_tensor(image: Image.Image) -> UInt8[Tensor, "channels height width"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
