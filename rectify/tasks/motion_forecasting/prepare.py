"""Preparing a set of traffic scenes: read or drawn, checked, counted, kept in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame

from rectify.data.forecasts import ForecastSet, listing_of, save_scenes
from rectify.tasks import preparation, readers
from rectify.tasks.motion_forecasting.settings import Settings


@dataclass(frozen=True)
class PreparedScenes:
    """A checked set of traffic scenes."""

    listing: DataFrame
    sets: Mapping[str, ForecastSet]
    """By split."""
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        save_scenes(folder, self.sets, provenance)


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedScenes:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a scene or a count is not as it must be.
    """
    sets = entry.reader_module.read(**preparation.arguments(entry))
    prepared = PreparedScenes(listing_of(sets), sets)
    preparation.report(name, prepared.listing)
    if entry.full:
        readers.check_complete(name, entry.reader_module, prepared.listing)
    return prepared
