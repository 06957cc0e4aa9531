"""Labelled images in one fixed order: held in memory, or read from files when asked for.

A prepared set is a folder. ``manifest.csv`` lists every item with its split, label and
origin (``rectify.data.manifests``); ``arrays.safetensors`` holds the images of a set that lies in
memory. For a set of files the note next to the manifest says where they are, and whether they were
packed into a file of the prepared set.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Bool, Int64, UInt8
from pandas import DataFrame
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, tensor

from rectify.data import packed
from rectify.data.arrays import opened
from rectify.data.images import read_image
from rectify.data.manifests import ARRAYS, LISTING, manifest, read_listing, write_listing
from rectify.results.files import atomic_path


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
    final_size: bool = False
    """Whether the images have the size that a model takes."""

    def __post_init__(self) -> None:
        lengths = {len(self.images), len(self.labels), len(self.sources)}
        assert len(lengths | ({len(self.captions)} if self.captions else set())) == 1, lengths

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, kept: Bool[Tensor, " items"]) -> "ImageSet":
        """Return the items that are kept."""
        numbers = kept.nonzero()[:, 0].tolist()
        return replace(
            self,
            images=self.images[kept],
            labels=self.labels[kept],
            sources=tuple(self.sources[number] for number in numbers),
            captions=tuple(self.captions[number] for number in numbers if self.captions),
        )

    @property
    def names(self) -> list[str]:
        """Each item's caption, or the name of its class."""
        return list(self.captions) or [self.classes[label] for label in self.labels.tolist()]


class FileSet:
    """One split whose images stay in their files until they are asked for."""

    final_size = False

    def __init__(self, folder: Path, listing: DataFrame, split: str, pack: Path | None = None):
        """Read nothing yet.

        Args:
            folder: Where the files are.
            listing: The manifest.
            split: Name of the split.
            pack: Prepared set that holds the images, made small, in one file.
        """
        rows = listing[listing["split"] == split]
        self.folder = Path(folder)
        self._pack, self._items = pack, tuple(rows["item"].tolist())
        self.sources = tuple(rows["source"])
        self.labels = tensor(rows["label"].to_numpy(dtype="int64"))
        self.names = list(rows["name"])

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def images(self) -> "FileSet":
        """The set itself, so that it can be where an ``ImageSet`` is."""
        return self

    def __getitem__(self, item: int) -> Image.Image:
        """Return one image as RGB."""
        if self._pack is not None:
            return read_image(packed.source(self._pack, self._items[item]))
        return read_image(self.folder / self.sources[item])


def listing_of(sets: Mapping[str, ImageSet]) -> DataFrame:
    """Return the manifest of splits that lie in memory."""
    return manifest(
        [
            (split, *item)
            for split, images in sets.items()
            for item in zip(images.labels.tolist(), images.names, images.sources, strict=True)
        ]
    )


def save_sets(folder: Path, sets: Mapping[str, ImageSet], provenance: dict) -> None:
    """Write the splits of a set that lies in memory; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: Splits by name, all with the same classes, and of the same kind.
        provenance: What ``rectify.results.provenance.provenance`` returned.
    """
    tensors = {}
    for split, images in sets.items():
        tensors |= {f"{split}.images": images.images, f"{split}.labels": images.labels}
    first = next(iter(sets.values()))
    facts = {**provenance["facts"], "final_size": first.final_size}
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary, {"classes": json.dumps(first.classes, ensure_ascii=False)})
    write_listing(folder, listing_of(sets), {**provenance, "facts": facts})


def save_files(
    folder: Path,
    files: Path,
    listing: DataFrame,
    provenance: dict,
    side: int | None = None,
    threads: int = 1,
) -> None:
    """Write the manifest of a set whose images stay in their files, or are packed into one.

    Args:
        folder: Gets ``manifest.csv``, its note, and ``images.arrow`` of a packed set.
        files: Where the images are.
        listing: The manifest.
        provenance: What ``rectify.results.provenance.provenance`` returned.
        side: Shorter side of a packed image in pixels; None: they stay where they are.
        threads: That pack them.
    """
    facts = {**provenance["facts"], "files": f"{files}", "packed": side is not None}
    if side is not None:
        packed.write(folder, files, listing["source"].tolist(), side, threads)
    write_listing(folder, listing, {**provenance, "facts": facts})
    for name in (ARRAYS, *((packed.PACKED,) if side is None else ())):
        (Path(folder) / name).unlink(missing_ok=True)


def load_set(folder: Path, split: str) -> ImageSet | FileSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    return _loaded(folder, *read_listing(folder), split)


def load_sets(folder: Path, prefix: str) -> Iterator[tuple[str, ImageSet | FileSet]]:
    """Give name and items of each split whose name starts with ``prefix``, in their order."""
    listing, facts = read_listing(folder)
    for split in dict.fromkeys(listing["split"]):
        if split.startswith(prefix):
            yield split, _loaded(folder, listing, facts, split)


def _loaded(folder: Path, listing: DataFrame, facts: dict, split: str) -> ImageSet | FileSet:
    rows = listing[listing["split"] == split]
    if rows.empty:
        raise ValueError(
            f"{folder}: split must be one of {', '.join(dict.fromkeys(listing['split']))}, "
            f"got {split!r}. Ask for one of these, or prepare the data set again."
        )
    if "files" in facts:
        pack = Path(folder) if facts.get("packed") else None
        return FileSet(Path(facts["files"]), listing, split, pack)
    images, labels, classes = _read_arrays(folder, split)
    if labels.tolist() != rows["label"].tolist():
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got others. "
            "Prepare the data set again."
        )
    captions = () if classes else tuple(rows["name"])
    sources, final_size = tuple(rows["source"]), facts.get("final_size", False)
    return ImageSet(images, labels, classes, sources, captions, final_size)


def _read_arrays(folder: Path, split: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    with opened(folder, split) as file:
        classes = tuple(json.loads(file.metadata()["classes"]))
        return file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"), classes
