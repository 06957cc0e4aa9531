"""Preparing a set of labelled clips."""

from rectify.tasks import preparation
from rectify.tasks.video_classification.frames import undecodable
from rectify.tasks.video_classification.settings import Settings


def prepare(
    name: str, entry: Settings, shift: str | None, threads: int
) -> preparation.PreparedImages:
    """Read or draw a set; check and count it. Only as many clips as said may be undecodable.

    Raises:
        ValueError: If a clip, a class or a count is not as it must be.
    """
    prepared = preparation.read(name, entry, shift, None)
    accepted = entry.undecodable
    prepared = preparation.check(name, entry, prepared, undecodable, threads, accepted)
    preparation.check_classes(name, entry.classes, prepared.listing)
    return preparation.reduced(name, prepared, entry.fraction)
