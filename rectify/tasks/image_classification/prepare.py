"""Preparing a set of labelled images, or one of its shifted test sets."""

from dataclasses import replace
from pathlib import Path

from rectify.data.images import unreadable
from rectify.tasks import preparation
from rectify.tasks.image_classification.settings import Settings


def prepare(
    name: str, entry: Settings, shift: str | None, threads: int
) -> preparation.PreparedImages:
    """Read or draw a set; check and count it. A shifted test set may have fewer classes.

    Raises:
        ValueError: If an image, a class or a count is not as it must be.
    """
    place = None if shift is None else Path(entry.shifts[shift])
    prepared = preparation.read(name, entry, shift, place)
    prepared = preparation.check(name, entry, prepared, unreadable, threads)
    if shift is None:
        preparation.check_classes(name, entry.classes, prepared.listing)
        prepared = preparation.reduced(name, prepared, entry.fraction)
        prepared = replace(prepared, stored_side=entry.stored_side, threads=threads)
    return prepared
