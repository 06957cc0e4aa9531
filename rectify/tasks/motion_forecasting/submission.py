"""Forecasts of a benchmark's public test set, whose futures are withheld, for its server."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from rectify.data.forecasts import REACH, ForecastSet
from rectify.tasks import readers
from rectify.tasks.contract import Machine
from rectify.tasks.entry import Entry
from rectify.tasks.motion_forecasting.settings import Settings
from rectify.tasks.motion_forecasting.task import SceneSource

MODES = 6  # trajectories of a scene that servers take


class Public(NamedTuple):
    """A public test set."""

    reader: ModuleType
    scenes: ForecastSet
    source: SceneSource

    def write(self, path: Path, answers: Mapping[str, Tensor]) -> None:
        """Write the most likely trajectories, on the map, as the benchmark's server takes them.

        Args:
            path: Of the file.
            answers: Of the task, for each scene.
        """
        ways, shares = most_likely(self.scenes, answers)
        self.reader.write_submission(path, self.scenes.sources, ways, shares)


def public(
    reader: str, folder: Path, data: Path | None, reach: int | None, entry: Entry, machine: Machine
) -> Public:
    """Return a benchmark's public test set.

    Args:
        reader: That has ``read_unscored``.
        folder: Of the set as unpacked.
        data: None: it is for questions.
        reach: Metres within which agents and lanes are kept; ``rectify.data.forecasts.REACH``
            unless given.
        entry: Of the set that the model has learned.
        machine: Where batches are wanted.

    Raises:
        ValueError: If the model is of other steps, an option is not for traffic, or a file is not
            as it must be.
    """
    if data is not None:
        raise ValueError(f"submit: scenes of traffic need no --data, got {data}. Leave it out.")
    module = readers.find(Settings.READERS, reader)
    steps = {key: getattr(entry, key, None) for key in module.STEPS}
    if steps != module.STEPS:
        wanted, got = (" and ".join(f"{one[key]}" for key in one) for one in (module.STEPS, steps))
        raise ValueError(
            f"submit: the run must see and forecast {wanted} steps for {reader}, got {got}. Name a "
            "run that has learned such a set."
        )
    scenes = module.read_unscored(folder, reach=float(reach or REACH))
    return Public(module, scenes, SceneSource(scenes, entry, machine))


def most_likely(
    scenes: ForecastSet, answers: Mapping[str, Tensor]
) -> tuple[Float64[np.ndarray, "scenes modes steps 2"], Float64[np.ndarray, "scenes modes"]]:
    """Return the most likely trajectories on the map, and their probabilities, which sum to 1."""
    shares = answers["probabilities"].double()
    ways = answers["trajectories"].double().unflatten(1, (shares.shape[1], -1, 2))
    kept = shares[:, :MODES]
    return scenes.on_map(ways[:, :MODES]).numpy(), (kept / kept.sum(1, keepdim=True)).numpy()
