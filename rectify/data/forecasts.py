"""Traffic scenes for motion forecasting in memory: tracks of agents, and the lanes around them.

A prepared set is a folder as one of images (``rectify.data.sets``): ``manifest.csv`` lists every
scene, ``arrays.safetensors`` holds what is ragged end to end: tracks by scene, lanes by map, and
which lanes are around a scene. The first agent of a scene is the one whose future is scored.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from pandas import DataFrame
from safetensors.torch import save_file
from scipy.spatial import KDTree
from torch import Tensor

from rectify.data.arrays import opened
from rectify.data.manifests import ARRAYS, LISTING, manifest, read_listing, write_listing
from rectify.data.spool import Spool
from rectify.results.files import atomic_path

OBSERVED, FUTURE = 20, 30
"""Steps of 0.1 s that a model sees, and that it forecasts, unless others are given: Argoverse 1."""
STEPS = OBSERVED + FUTURE
POINTS = 10  # of a lane
FLAGS = 3
"""Of a lane: turn (0 none, 1 left, 2 right), whether in an intersection, whether controlled."""
REACH = 100.0
"""Metres, ahead, behind and to each side: whoever and whatever is further off is left out."""
RECENT = 4  # maps in memory: scenes of Argoverse 1 have two, each of Argoverse 2 has its own

Array = np.ndarray


@dataclass(frozen=True)
class Scene:
    """One scene as it was published or drawn, in metres of its map."""

    tracks: Float64[Array, "agents steps 2"]
    """Positions, the scored agent first; 0 where it is not seen."""
    seen: Bool[Array, "agents steps"]
    city: str
    map: str
    """Name of its map."""
    source: str


@dataclass(frozen=True)
class Lanes:
    """The centre lines of a map."""

    points: Float64[Array, "lanes 10 2"]
    flags: UInt8[Array, "lanes 3"]


@dataclass(frozen=True)
class ForecastSet:
    """One split."""

    tracks: Float32[Tensor, "all_agents steps 2"]
    """Metres from the scored agent's last observed position."""
    seen: Bool[Tensor, "all_agents steps"]
    agents: Int64[Tensor, " scenes"]
    """How many each scene has."""
    origins: Float64[Tensor, "scenes 2"]
    """Where that position is on the map."""
    headings: Float64[Tensor, " scenes"]
    """Direction of the scored agent's last observed movement, radians from the x axis."""
    points: Float64[Tensor, "all_lanes 10 2"]
    flags: UInt8[Tensor, "all_lanes 3"]
    near: Int64[Tensor, " entries"]
    """Lanes around each scene, by their place in ``points``."""
    lanes: Int64[Tensor, " scenes"]
    """How many each scene has."""
    cities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.agents)

    def batch(self, items: Int64[Tensor, " batch"]) -> dict[str, Tensor]:
        """Return scenes as seen by their scored agent: at the origin, heading along x.

        Returns:
            ``tracks`` (batch, agents, steps, 2) and ``seen``, ``lanes`` (batch, lanes, 10, 2) and
            ``flags``, 0 where there is no agent, step or lane; ``no_agent`` (batch, agents) and
            ``no_lane`` are True there.
        """
        agents, there = _places(self._agents_before[items], self.agents[items])
        near, here = _places(self._lanes_before[items], self.lanes[items])
        tracks, seen = self.tracks[agents].double(), self.seen[agents] & there[..., None]
        near = self.near[near]
        lanes = self.points[near] - self.origins[items][:, None, None]
        turned = turn(-self.headings[items])[:, None]
        return {
            "tracks": (tracks @ turned).float() * seen[..., None],
            "seen": seen,
            "no_agent": ~there,
            "lanes": (lanes @ turned).float() * here[..., None, None],
            "flags": (self.flags[near] * here[..., None]).float(),
            "no_lane": ~here,
        }

    def on_map(
        self, places: Float64[Tensor, "scenes modes steps 2"]
    ) -> Float64[Tensor, "scenes modes steps 2"]:
        """Return places that scored agents see as places on their maps."""
        turned = places @ turn(self.headings)[:, None]
        return turned + self.origins[:, None, None]

    @cached_property
    def _agents_before(self) -> Int64[Tensor, " scenes"]:
        return self.agents.cumsum(0) - self.agents

    @cached_property
    def _lanes_before(self) -> Int64[Tensor, " scenes"]:
        return self.lanes.cumsum(0) - self.lanes


def turn(angles: Float64[Tensor, " batch"]) -> Float64[Tensor, "batch 2 2"]:
    """Return what rows of coordinates are multiplied by to turn them by angles (radians)."""
    cosine, sine = angles.cos(), angles.sin()
    return torch.stack([cosine, sine, -sine, cosine], 1).unflatten(1, (2, 2))


def _places(
    first: Int64[Tensor, " batch"], counts: Int64[Tensor, " batch"]
) -> tuple[Int64[Tensor, "batch most"], Bool[Tensor, "batch most"]]:
    """Return so many places from each first one on, 0 behind the shorter ones, and which count."""
    order = torch.arange(int(counts.max()))
    there = order < counts[:, None]
    return (first[:, None] + order) * there, there


def gathered(
    scenes: Iterable[Scene],
    maps: Mapping[str, Lanes],
    reach: float = REACH,
    observed: int = OBSERVED,
) -> ForecastSet:
    """Return scenes with those agents and lanes that a model sees.

    Agents are kept that are seen at the last observed step, within ``reach`` ahead, behind and to
    each side; lanes all of whose points are. Scenes are taken one by one, and none stays in memory.

    Args:
        scenes: Of one split; the scored agent is seen at every observed step.
        maps: By name.
        reach: Metres.
        observed: Steps that a model sees.
    """
    agents, lanes, origins, headings, cities, names = [], [], [], [], [], []
    with Spool() as tracks, Spool() as seen, Spool() as near, _Maps(maps) as placed:
        for scene in scenes:
            origin, heading = scene.tracks[0, observed - 1], _heading(scene.tracks[0, :observed])
            inside = _inside(scene.tracks[:, observed - 1], origin, heading, reach)
            kept = inside & scene.seen[:, observed - 1]
            places = (scene.tracks[kept] - origin) * scene.seen[kept][..., None]
            around = placed.around(scene.map, origin, heading, reach)
            tracks.add(places.astype(np.float32))
            seen.add(scene.seen[kept])
            near.add(around)
            agents.append(len(places))
            lanes.append(len(around))
            origins.append(origin.copy())
            headings.append(heading)
            cities.append(scene.city)
            names.append(scene.source)
        return ForecastSet(
            tracks=tracks.tensor(),
            seen=seen.tensor(),
            agents=torch.tensor(agents),
            origins=torch.from_numpy(np.stack(origins)),
            headings=torch.tensor(headings, dtype=torch.float64),
            points=placed.points.tensor(),
            flags=placed.flags.tensor(),
            near=near.tensor(),
            lanes=torch.tensor(lanes),
            cities=tuple(cities),
            sources=tuple(names),
        )


class _Maps(ExitStack):
    """Lanes of maps one behind the other, those of each map from when it is first asked for."""

    def __init__(self, maps: Mapping[str, Lanes]):
        super().__init__()
        self.points, self.flags = (self.enter_context(Spool()) for _ in range(2))
        self._maps, self._starts, self._count = maps, dict[str, int](), 0
        self._lately = lru_cache(RECENT)(self._placed)

    def around(
        self, name: str, origin: Array, heading: float, reach: float
    ) -> Int64[Array, " lanes"]:
        """Return the places of the lanes all of whose points are inside: so is their mean."""
        points, tree = self._lately(name)
        close = np.sort(tree.query_ball_point(origin, reach * 2**0.5)).astype(np.int64)
        return close[_inside(points[close], origin, heading, reach).all(1)] + self._starts[name]

    def _placed(self, name: str) -> tuple[Array, KDTree]:
        """Return a map's points, and their means by place; its lanes are kept the first time."""
        lanes = self._maps[name]
        if name not in self._starts:
            self._starts[name] = self._count
            self._count += len(lanes.points)
            self.points.add(lanes.points)
            self.flags.add(lanes.flags)
        return lanes.points, KDTree(lanes.points.mean(1))


def _heading(observed: Float64[Array, "steps 2"]) -> float:
    """Return the direction of the last step that moved; 0 where none did."""
    moves = np.diff(observed, axis=0)
    moving = np.flatnonzero(np.abs(moves).max(1) > 0)
    return float(np.arctan2(*moves[moving[-1], ::-1])) if len(moving) else 0.0


def _inside(points: Array, origin: Array, heading: float, reach: float) -> Array:
    """Return which points (..., 2) lie in the square about an origin, turned by a heading."""
    cosine, sine = np.cos(heading), np.sin(heading)
    x, y = np.moveaxis(points - origin, -1, 0)
    return np.maximum(np.abs(cosine * x + sine * y), np.abs(cosine * y - sine * x)) <= reach


def listing_of(sets: Mapping[str, ForecastSet]) -> DataFrame:
    """Return the manifest of the splits: scenes have a city and no class."""
    return manifest(
        [
            (split, -1, city, source)
            for split, scenes in sets.items()
            for city, source in zip(scenes.cities, scenes.sources, strict=True)
        ]
    )


def save_scenes(folder: Path, sets: Mapping[str, ForecastSet], provenance: dict) -> None:
    """Write the splits of a set; the manifest comes last."""
    tensors = {
        f"{split}.{name}": getattr(scenes, name).contiguous()
        for split, scenes in sets.items()
        for name in _tensors()
    }
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary)
    write_listing(folder, listing_of(sets), provenance)


def load_scenes(folder: Path, split: str) -> ForecastSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    listing, _ = read_listing(folder)
    rows = listing[listing["split"] == split]
    with opened(folder, split) as file:
        tensors = {name: file.get_tensor(f"{split}.{name}") for name in _tensors()}
    if len(tensors["agents"]) != len(rows):
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got "
            f"{len(rows)} and {len(tensors['agents'])}. Prepare the data set again."
        )
    return ForecastSet(**tensors, cities=tuple(rows["name"]), sources=tuple(rows["source"]))


def _tensors() -> list[str]:
    return [one.name for one in fields(ForecastSet) if one.name not in ("cities", "sources")]
