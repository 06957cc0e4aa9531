"""Preparing a set of labelled point clouds: read or drawn, checked, counted, kept in memory."""

from collections.abc import Mapping

from rectify.data.clouds import CloudSet, listing_of
from rectify.tasks import preparation, readers
from rectify.tasks.point_classification.settings import Settings
from rectify.tasks.preparation import PreparedClouds


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedClouds:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a cloud, a class or a count is not as it must be.
    """
    sets = entry.reader_module.read(**preparation.arguments(entry))
    prepared = PreparedClouds(listing_of(sets), sets)
    preparation.report(name, prepared.listing)
    _check_points(name, entry, sets)
    if entry.full:
        readers.check_complete(name, entry.reader_module, prepared.listing)
    preparation.check_classes(name, entry.classes, prepared.listing)
    return preparation.reduced(name, prepared, entry.fraction)


def _check_points(name: str, entry: Settings, sets: Mapping[str, CloudSet]) -> None:
    stored = min(clouds.points.shape[1] for clouds in sets.values())
    if entry.points > stored:
        raise ValueError(
            f"{name}: points must not exceed the {stored} points of a stored cloud, got "
            f"{entry.points}. Lower data.{name}.points in the config."
        )
