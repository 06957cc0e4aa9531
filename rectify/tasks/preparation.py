"""Preparing a set of images, clips, clouds or pairs: read, check, count, and only then write.

reader -> rows or arrays -> every item can be read -> counts -> classes -> share -> manifest
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from pandas import DataFrame

from rectify.data.clouds import CloudSet, save_clouds
from rectify.data.manifests import class_names, counts, manifest, without
from rectify.data.sets import ImageSet, listing_of, save_files, save_sets
from rectify.runtime import generator
from rectify.tasks import readers
from rectify.tasks.entry import Entry

log = logging.getLogger(__name__)

FindUnreadable = Callable[[Path, Sequence[str], int], list[str]]
"""From folder, sources and threads to the sources that cannot be read."""


@dataclass(frozen=True)
class PreparedImages:
    """A checked set of images, clips or pairs."""

    listing: DataFrame
    sets: Mapping[str, ImageSet]
    """By split, where the set lies in memory."""
    files: Path | None = None
    """Folder that the sources are named from, where the items stay in their files."""
    left_out: tuple[str, ...] = ()
    stored_side: int | None = None
    """Shorter side in pixels of the images that are packed; None: they stay in their files."""
    threads: int = 1
    """That pack them."""

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        if self.files is None:
            save_sets(folder, self.sets, provenance)
        else:
            how = (self.stored_side, self.threads)
            save_files(folder, self.files, self.listing, provenance, *how)


@dataclass(frozen=True)
class PreparedClouds:
    """A checked set of point clouds."""

    listing: DataFrame
    sets: Mapping[str, CloudSet]
    """By split."""
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        save_clouds(folder, self.sets, provenance)


Reducible = TypeVar("Reducible")
"""A dataclass with ``listing`` and ``sets``, as `PreparedImages`."""


def read(name: str, entry: Entry, shift: str | None, place: Path | None) -> PreparedImages:
    """Return a set as its reader gives it, counted.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        shift: One of its shifted test sets instead.
        place: Folder of that.

    Raises:
        ValueError: If files are missing or not as the reader needs them.
    """
    reader, folder = entry.reader_module, None if entry.folder is None else Path(entry.folder)
    if shift is not None:
        listing = manifest(reader.read_shift(folder, shift, place))
        prepared = PreparedImages(listing, {}, place)
    else:
        made = reader.read(**arguments(entry))
        if reader.IN_MEMORY:
            drawn = "image_size" in readers.arguments(reader)  # at the size that a model takes
            made = {split: replace(images, final_size=drawn) for split, images in made.items()}
            prepared = PreparedImages(listing_of(made), made)
        else:
            prepared = PreparedImages(manifest(made), {}, folder)
    report(name, prepared.listing)
    return prepared


def check(
    name: str,
    entry: Entry,
    prepared: PreparedImages,
    unreadable: FindUnreadable,
    threads: int,
    accepted: int | None = None,
) -> PreparedImages:
    """Return a set without the items that cannot be read, if just so many are accepted.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        prepared: What was read.
        unreadable: Finds the items that cannot be read.
        threads: That look at the items.
        accepted: How many items may be unreadable, and must be; None: none may.

    Raises:
        ValueError: If other items cannot be read, or the set is not as it was published.
    """
    bad = [] if prepared.files is None else _bad(name, prepared, unreadable, threads, accepted)
    if entry.full:
        readers.check_complete(name, entry.reader_module, prepared.listing)
    if not bad:
        return prepared
    listing = without(prepared.listing, bad)
    report(name, listing)
    return replace(prepared, listing=listing, left_out=tuple(bad))


def reduced(name: str, prepared: Reducible, fraction: float) -> Reducible:
    """Return a set with a share of the training items of each class, all others as they are.

    The items of a class are kept in a random order that is the same for every share, one at least:
    a smaller share is part of each larger one. The manifest says which ones they are.

    Args:
        name: Of the set, for messages.
        prepared: All of it.
        fraction: The share, 0 .. 1.
    """
    if fraction == 1:
        return prepared
    listing = prepared.listing
    kept = listing["split"] != "train"
    for label, items in listing[~kept].groupby("label").groups.items():
        order = torch.randperm(len(items), generator=generator(0, "fraction", int(label)))
        kept[items[order[: max(1, round(fraction * len(items)))].numpy()]] = True
    sets = {
        split: images.only(torch.tensor(kept[listing["split"] == split].tolist()))
        for split, images in prepared.sets.items()
    }
    chosen = listing[kept].reset_index(drop=True)
    report(name, chosen)
    return replace(prepared, listing=chosen.assign(item=range(len(chosen))), sets=sets)


def check_classes(name: str, classes: int, listing: DataFrame) -> None:
    """Check the number of classes.

    Raises:
        ValueError: If there are more or fewer.
    """
    counted = listing.loc[listing["label"] >= 0, "label"].nunique()
    if counted != classes:
        raise ValueError(
            f"{name}: must have {classes} classes, got {counted}. Complete the files, or correct "
            f"data.{name}.classes in the config."
        )


def check_intact(folder: Path, bad: Sequence[str]) -> None:
    """Check that no image of a folder is among those that cannot be read.

    Raises:
        ValueError: Names the first ones.
    """
    if bad:
        raise ValueError(
            f"{folder}: each file must be an intact image, got {len(bad)} missing or "
            f"unreadable: {readers.few(bad)}. Replace them."
        )


def arguments(entry: Entry) -> dict[str, object]:
    """Return what the reader takes of the settings."""
    known = readers.arguments(entry.reader_module)
    given = {key: getattr(entry, key, None) for key in readers.GIVEN if key in known}
    if "folder" in given:
        given["folder"] = Path(entry.folder)
    return {key: value for key, value in given.items() if value is not None} | dict(entry.sizes)


def report(name: str, listing: DataFrame) -> None:
    """Log how many items each split has, and the classes."""
    for split, items in counts(listing).items():
        log.info("%s: %s: %d items", name, split, items)
    classes = class_names(listing)
    log.info("%s: %d classes: %s", name, len(classes), readers.few(classes) or "-")


def _bad(
    name: str,
    prepared: PreparedImages,
    unreadable: FindUnreadable,
    threads: int,
    accepted: int | None,
) -> list[str]:
    bad = unreadable(prepared.files, prepared.listing["source"].tolist(), threads)
    log.info("%s: %d unreadable files", name, len(bad))
    for source in bad:
        log.info("%s: unreadable: %s", name, source)
    if accepted is not None and len(bad) != accepted:
        raise ValueError(
            f"{name}: {accepted} clips that cannot be decoded are accepted, got {len(bad)}: "
            f"{readers.few(bad) or '-'}. Get them again, or set data.{name}.undecodable to "
            f"{len(bad)} to leave them out."
        )
    if accepted is None:
        check_intact(prepared.files, bad)
    return bad
