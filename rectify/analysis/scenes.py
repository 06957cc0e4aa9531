"""Test scenes of a set of traffic and what models say of them, for figures; read without torch.

All is in the frame of the scored agent: metres ahead of and to the left of where it was last
observed. What lies in a set's file is in ``rectify.data.forecasts``; forecasts are columns of
``predictions.parquet``.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from rectify.analysis.kept import read_kept
from rectify.data.arrays import opened

SPLIT = "test"
SECOND = 10  # steps
ANSWERS = ("trajectories", "probabilities")
"""Columns of ``predictions.parquet`` that are no scores."""
FIELDS = (
    *("tracks", "seen", "agents", "origins", "headings"),
    *("points", "near", "lanes"),
)


class Scene(NamedTuple):
    """One scene."""

    tracks: np.ndarray
    """Of agents (agents, steps, 2), the scored one first; not a number where they are not seen."""
    lanes: np.ndarray
    """Centre lines (lanes, points, 2)."""


class Scenes:
    """The test scenes of a set, in their order."""

    def __init__(self, folder: Path):
        """Read a set.

        Raises:
            ValueError: If the file is missing or damaged, or holds other things.
        """
        with opened(folder, SPLIT, "numpy") as file:
            self._arrays = {name: file.get_tensor(f"{SPLIT}.{name}") for name in FIELDS}
        self._agents = np.cumsum([0, *self._arrays["agents"]])
        self._lanes = np.cumsum([0, *self._arrays["lanes"]])

    def __len__(self) -> int:
        return len(self._arrays["agents"])

    def __getitem__(self, number: int) -> Scene:
        own = slice(*self._agents[number : number + 2])
        near = self._arrays["near"][slice(*self._lanes[number : number + 2])]
        angle = self._arrays["headings"][number]
        cosine, sine = np.cos(angle), np.sin(angle)
        turned = np.array([[cosine, -sine], [sine, cosine]])
        tracks = self._arrays["tracks"][own] @ turned
        tracks[~self._arrays["seen"][own]] = np.nan
        lanes = self._arrays["points"][near] - self._arrays["origins"][number]
        return Scene(tracks, lanes @ turned)

    def from_easy_to_hard(self, observed: int) -> np.ndarray:
        """Return the numbers of the scenes, ordered by how little constant velocity explains them.

        What counts is how far off its last position is. No model has a part in this.

        Args:
            observed: Steps that a model sees.
        """
        return np.argsort(self.from_constant_velocity(observed)[:, -1], kind="stable")

    def from_constant_velocity(self, observed: int) -> np.ndarray:
        """Return how far scored agents are from where constant velocity leads, in metres.

        It is the mean velocity of the last second that was observed, since one step has the noise
        of two positions.

        Args:
            observed: Steps that a model sees.

        Returns:
            (scenes, steps), after each further step.
        """
        scored = self._arrays["tracks"][self._agents[:-1]].astype(np.float64)
        now, future = scored[:, observed - 1 : observed], scored[:, observed:]
        step = (now - scored[:, [observed - 1 - SECOND]]) / SECOND
        ahead = np.arange(1, future.shape[1] + 1)[:, None]
        return np.linalg.norm(now + step * ahead - future, axis=2)


class Forecasts(NamedTuple):
    """What a model says of each test scene, the most likely of its trajectories first."""

    trajectories: np.ndarray
    """(scenes, modes, steps, 2)."""
    probabilities: np.ndarray
    """(scenes, modes)."""


def read_forecasts(path: Path) -> Forecasts:
    """Return the forecasts of ``predictions.parquet``.

    Raises:
        ValueError: If it has none, or is damaged.
    """
    columns = read_kept(path, ANSWERS)
    trajectories, probabilities = (np.stack(columns[name].to_list()) for name in ANSWERS)
    return Forecasts(trajectories.reshape(*probabilities.shape, -1, 2), probabilities)
