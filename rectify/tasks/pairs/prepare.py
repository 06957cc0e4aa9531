"""Preparing a set of pairs of image, or cloud, and caption."""

import hashlib
from collections.abc import Sequence

from torch import Tensor

from rectify.data.clouds import listing_of
from rectify.data.images import digests, unreadable
from rectify.tasks import preparation
from rectify.tasks.pairs.settings import Settings


def prepare(
    name: str, entry: Settings, shift: str | None, threads: int
) -> preparation.PreparedImages | preparation.PreparedClouds:
    """Read or draw the pairs; check and count them.

    Raises:
        ValueError: If an image, a cloud or a caption is missing, a count is not as it must be, or
            two images or clouds are equal; a full set is as it was published.
    """
    if getattr(entry.reader_module, "CLOUDS", False):
        return _clouds(name, entry)
    prepared = preparation.read(name, entry, shift, None)
    prepared = preparation.check(name, entry, prepared, unreadable, threads)
    if not entry.full:
        sources = prepared.listing["source"].tolist()
        if prepared.files is None:
            made = [_digest(image) for one in prepared.sets.values() for image in one.images]
        else:
            made = digests(prepared.files, sources, threads)
        check_distinct(name, sources, made)
    return prepared


def _clouds(name: str, entry: Settings) -> preparation.PreparedClouds:
    sets = entry.reader_module.read(**preparation.arguments(entry))
    prepared = preparation.PreparedClouds(listing_of(sets), sets)
    preparation.report(name, prepared.listing)
    made = [_digest(cloud) for one in sets.values() for cloud in one.points]
    check_distinct(name, prepared.listing["source"].tolist(), made)
    return prepared


def _digest(item: Tensor) -> str:
    return hashlib.sha256(item.numpy().tobytes()).hexdigest()


def check_distinct(name: str, sources: Sequence[str], made: Sequence[str]) -> None:
    """Check that no two images, or clouds, of a set are equal.

    Copies are each other's nearest neighbours in every space, which looks like agreement, also of
    unrelated models, and permuted items do not show it.

    Args:
        name: Of the set.
        sources: Of its items.
        made: A digest of each item.

    Raises:
        ValueError: Names the first two that are equal.
    """
    first: dict[str, str] = {}
    for source, digest in zip(sources, made, strict=True):
        if digest in first:
            copies = len(made) - len(set(made))
            raise ValueError(
                f"{name}: all items of pairs must differ, got {source} equal to {first[digest]} "
                f"({copies} such). Keep one caption each: copies are each other's neighbours."
            )
        first[digest] = source
