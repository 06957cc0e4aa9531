"""Preparing a set of image-caption pairs."""

import hashlib
from collections.abc import Sequence

from rectify.data.images import digests, unreadable
from rectify.tasks import preparation
from rectify.tasks.pairs.settings import Settings


def prepare(
    name: str, entry: Settings, shift: str | None, threads: int
) -> preparation.PreparedImages:
    """Read or draw the pairs; check and count them.

    Raises:
        ValueError: If an image or a caption is missing, a count is not as it must be, or two
            images are equal; a full set is as it was published.
    """
    prepared = preparation.read(name, entry, shift, None)
    prepared = preparation.check(name, entry, prepared, unreadable, threads)
    if not entry.full:
        sources = prepared.listing["source"].tolist()
        if prepared.files is None:
            images = (image for one in prepared.sets.values() for image in one.images)
            made = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
        else:
            made = digests(prepared.files, sources, threads)
        check_distinct(name, sources, made)
    return prepared


def check_distinct(name: str, sources: Sequence[str], made: Sequence[str]) -> None:
    """Check that no two images of a set are equal.

    Copies are each other's nearest neighbours in every space, which looks like agreement, also of
    unrelated models, and permuted items do not show it.

    Args:
        name: Of the set.
        sources: Of its images.
        made: A digest of each image.

    Raises:
        ValueError: Names the first two that are equal.
    """
    first: dict[str, str] = {}
    for source, digest in zip(sources, made, strict=True):
        if digest in first:
            copies = len(made) - len(set(made))
            raise ValueError(
                f"{name}: all images of pairs must differ, got {source} equal to {first[digest]} "
                f"({copies} such). Keep one caption per image: copies are each other's neighbours."
            )
        first[digest] = source
