"""Preparing a set of image-caption pairs."""

from rectify.data.sets import unreadable
from rectify.tasks import preparation
from rectify.tasks.pairs.settings import Settings


def prepare(
    name: str, entry: Settings, shift: str | None, threads: int
) -> preparation.PreparedImages:
    """Read or draw the pairs; check and count them.

    Raises:
        ValueError: If an image or a caption is missing, or a count is not as it must be.
    """
    prepared = preparation.read(name, entry, shift, None)
    return preparation.check(name, entry, prepared, unreadable, threads)
