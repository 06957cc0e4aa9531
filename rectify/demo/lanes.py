"""Cars on a road to a junction: they follow who is ahead, slow before bends, and take a branch.

A scene is a road of constant curvature to a junction of which one to three branches are open:
left, straight on, right. The scored car follows the intelligent driver model (Treiber et al.,
2000) behind a leader, where there is one, that may brake; it takes an open branch at random. Cars
come towards it on the other side of the road, for a while. So who only goes straight on at its
speed is far off, the map says where one can go, and the leader how fast.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rectify.data.forecasts import (
    FLAGS,
    OBSERVED,
    POINTS,
    STEPS,
    ForecastSet,
    Lanes,
    Scene,
    gathered,
)
from rectify.runtime import seed_for

Array = np.ndarray

CITIES = {"train": "PIT", "test": "MIA"}
SPACING = 1000.0  # metres between scenes on the map
SIDE = 3.7  # metres from one lane to the one beside it
NOISE = 0.05  # metres, of each observed position
SECONDS = 0.1  # a step
TURNS = ("straight", "left", "right")
BENDS = np.array([0.0, 1 / 12, -1 / 9])
"""Curvature of each branch's bend, 1 / metre."""
SWEEP = (np.pi / 3, 2 * np.pi / 3)
"""By how much a bend turns, radians."""
SLOW = np.array([np.inf, 7.0, 6.0])  # metres a second in the bend
BRANCH_FLAG = np.array([0, 1, 2])
BEHIND, AHEAD, GRID = 90, 150, 0.5
"""Metres of a path before and behind the junction's edge, and between two of its points."""
PIECE = 18.0  # metres of a lane
ONCOMING = 4


class Paths(NamedTuple):
    """A path for each scene and branch, by metres along it, the junction's edge at 0."""

    points: Float64[Array, "scenes 3 grid 2"]
    headings: Float64[Array, "scenes 3 grid"]

    def at(
        self, branch: Int64[Array, " scenes"], along: Float64[Array, " scenes"], side: float = 0.0
    ) -> Float64[Array, "scenes 2"]:
        """Return where one is that went so far along a branch, so far to its left."""
        place = np.clip((along + BEHIND) / GRID, 0, self.points.shape[2] - 1.001)
        low, rows = place.astype(int), np.arange(len(place))
        share = (place - low)[:, None]
        ends = [self.points[rows, branch, low + more] for more in (0, 1)]
        heading = self.headings[rows, branch, low]
        left = np.stack([-np.sin(heading), np.cos(heading)], 1)
        return (1 - share) * ends[0] + share * ends[1] + side * left


def lanes(
    *, seed: int = 0, train_items: int = 1000, test_items: int = 300
) -> dict[str, ForecastSet]:
    """Return train and test.

    Args:
        seed: Of every draw.
        train_items: Training scenes.
        test_items: Test scenes.
    """
    drawn_scenes = drawn(seed=seed, train_items=train_items, test_items=test_items)
    return {split: gathered(scenes, maps) for split, (scenes, maps) in drawn_scenes.items()}


def drawn(
    *, seed: int, train_items: int, test_items: int
) -> dict[str, tuple[list[Scene], dict[str, Lanes]]]:
    """Return the scenes of each split with the map of its city, before anything is left out."""
    items = {"train": train_items, "test": test_items}
    return {split: _split(split, count, seed) for split, count in items.items()}


def _split(split: str, items: int, seed: int) -> tuple[list[Scene], dict[str, Lanes]]:
    random = np.random.default_rng(seed_for(seed, "lanes", split))
    paths = _paths(random, items)
    is_open = _open(random, items)
    lots = random.random((items, 3)) * is_open
    branch = lots.argmax(1)
    tracks, seen = _traffic(random, paths, branch)
    tracks += NOISE * random.standard_normal(tracks.shape)
    angle = random.uniform(-np.pi, np.pi, items)
    place = SPACING * np.stack([np.arange(items) % 30 + 1, np.arange(items) // 30 + 1], 1)

    def put(points: Array, scenes: Array) -> Array:
        """Turn and move what is in the frame of its junction to where the scene is."""
        cosine, sine = (
            f(angle[scenes]).reshape(-1, *[1] * (points.ndim - 2)) for f in (np.cos, np.sin)
        )
        x, y = np.moveaxis(points, -1, 0)
        turned = np.stack([cosine * x - sine * y, sine * x + cosine * y], -1)
        return turned + place[scenes].reshape(-1, *[1] * (points.ndim - 2), 2)

    centre_lines, flags, owners = _pieces(paths, is_open)
    tracks = put(tracks, np.arange(items)) * seen[..., None]
    there, city = seen.any(2), CITIES[split]
    scenes = [
        Scene(tracks[n][there[n]], seen[n][there[n]], city, city, f"{split} draw {n}")
        for n in range(items)
    ]
    return scenes, {city: Lanes(put(centre_lines, owners), flags)}


def _open(random: np.random.Generator, items: int) -> Bool[Array, "items 3"]:
    """Return which branches are open: one, two or three of them."""
    ranks = random.random((items, 3)).argsort(1).argsort(1)
    return ranks < random.integers(1, 4, items)[:, None]


def _paths(random: np.random.Generator, items: int) -> Paths:
    along = np.arange(-BEHIND, AHEAD + GRID, GRID)
    before = random.uniform(-0.012, 0.012, (items, 1, 1))
    bends = BENDS[None, :, None]
    sweep = random.uniform(*SWEEP, (items, 3, 1))
    veer = random.uniform(-0.015, 0.015, (items, 1, 1))
    turned = np.where(along < sweep / np.maximum(np.abs(bends), 1e-9), bends, 0.0)
    curvature = np.where(along <= 0, before, np.where(bends == 0, veer, turned))
    headings = np.cumsum(curvature, 2) * GRID
    zero = round(BEHIND / GRID)
    headings = headings - headings[:, :, zero : zero + 1]
    steps = GRID * np.stack([np.cos(headings), np.sin(headings)], -1)
    points = np.cumsum(steps, 2)
    return Paths(points - points[:, :, zero : zero + 1], headings)


def _traffic(
    random: np.random.Generator, paths: Paths, branch: Int64[Array, " items"]
) -> tuple[Float64[Array, "items agents 50 2"], Bool[Array, "items agents 50"]]:
    """Return the scored car, its leader, and those that come towards it."""
    items = len(branch)
    own, leader = _along(random, branch)
    tracks = np.zeros((items, 2 + ONCOMING, STEPS, 2))
    seen = np.ones(tracks.shape[:3], bool)
    seen[:, 1] = np.isfinite(leader).all(1)[:, None]
    speed = random.uniform(7, 15, (items, ONCOMING))
    start = random.uniform(-20, 130, (items, ONCOMING))
    ends = np.sort(random.uniform(-30, STEPS + 30, (2, items, ONCOMING)), 0)
    straight = np.zeros(items, int)
    for step in range(STEPS):
        tracks[:, 0, step] = paths.at(branch, own[:, step])
        tracks[:, 1, step] = paths.at(branch, np.nan_to_num(leader[:, step]))
        for car in range(ONCOMING):
            along = start[:, car] - speed[:, car] * SECONDS * step
            tracks[:, 2 + car, step] = paths.at(straight, along, SIDE)
            inside = (ends[0, :, car] <= step) & (step <= ends[1, :, car]) & (along > -BEHIND)
            seen[:, 2 + car, step] = inside
    return tracks, seen


def _along(
    random: np.random.Generator, branch: Int64[Array, " items"]
) -> tuple[Float64[Array, "items 50"], Float64[Array, "items 50"]]:
    """Return how far along its path the scored car is, and its leader (NaN without one)."""
    items = len(branch)
    wish, headway = random.uniform(8, 12, items), random.uniform(1.0, 1.8, items)
    speed = wish * random.uniform(0.85, 1.0, items)
    own = -speed * SECONDS * OBSERVED - random.uniform(0, 22, items)
    has_leader = random.random(items) < 0.75
    ahead = own + speed * headway + random.uniform(4, 12, items)
    lead_wish = wish * random.uniform(0.7, 1.1, items)
    lead_speed = speed.copy()
    brakes = random.random(items) < 0.5
    first = random.uniform(8, 30, items)
    last = first + random.uniform(8, 20, items)
    force = random.uniform(2.0, 4.0, items)
    both = np.empty((2, items, STEPS))
    for step in range(STEPS):
        both[:, :, step] = own, ahead
        gap = np.where(has_leader, np.maximum(ahead - own - 4.5, 0.5), np.inf)
        closing = np.where(has_leader, speed - lead_speed, 0.0)
        own_push = _push(speed, _limit(wish, own, branch), gap, closing, headway)
        free = np.full(items, np.inf)
        lead_push = _push(
            lead_speed, _limit(lead_wish, ahead, branch), free, np.zeros(items), headway
        )
        braking = brakes & (first <= step) & (step < last)
        lead_push = np.where(braking, -force, lead_push)
        own, speed = own + speed * SECONDS, np.maximum(speed + own_push * SECONDS, 0)
        ahead = ahead + lead_speed * SECONDS
        lead_speed = np.maximum(lead_speed + lead_push * SECONDS, 0)
    return both[0], np.where(has_leader[:, None], both[1], np.nan)


def _push(
    speed: Array, wish: Array, gap: Array, closing: Array, headway: Array
) -> Float64[Array, " items"]:
    """Return the acceleration of the intelligent driver model, metres a second squared."""
    most, comfort, least = 2.0, 2.5, 2.0
    desired = least + np.maximum(
        speed * headway + speed * closing / (2 * (most * comfort) ** 0.5), 0
    )
    free = np.where(speed > wish, -comfort * (1 - wish / np.maximum(speed, 1e-9)) * 2,
                    most * (1 - (speed / wish) ** 4))  # fmt: skip
    return np.maximum(free - most * (desired / gap) ** 2, -8.0)


def _limit(wish: Array, along: Array, branch: Int64[Array, " items"]) -> Float64[Array, " items"]:
    """Return the speed that is wished for, lower before and in a bend."""
    slow, bend = SLOW[branch], BENDS[branch]
    long = np.where(bend == 0, 0.0, np.pi / 2 / np.maximum(np.abs(bend), 1e-9))
    room = np.maximum(-along, 0)
    bounded = np.sqrt(np.where(np.isfinite(slow), slow, 0) ** 2 + 2 * 2.0 * room)
    return np.where((bend != 0) & (along < long), np.minimum(wish, bounded), wish)


def _pieces(
    paths: Paths, is_open: Bool[Array, "items 3"]
) -> tuple[Float64[Array, "pieces 10 2"], Array, Int64[Array, " pieces"]]:
    """Return centre lines with their flags, and the scene of each."""
    items, all_scenes = len(is_open), np.arange(len(is_open))
    straight = np.zeros(items, int)
    made = []
    for start in np.arange(-4 * PIECE, 4 * PIECE, PIECE):
        after = start >= 0
        for turned in range(3) if after else (0,):
            chosen = is_open[:, turned] if after else np.ones(items, bool)
            flag = (BRANCH_FLAG[turned] if start == 0 else 0, int(start == 0), 0)
            made.append((straight + turned, start, 0.0, 1, flag, chosen))
        made.append((straight, start, SIDE, -1, (0, int(start == 0), 0), np.ones(items, bool)))
    points, flags, owners = [], [], []
    for branch, start, side, way, flag, chosen in made:
        along = start + np.linspace(0, PIECE, POINTS)[::way]
        line = np.stack([paths.at(branch, np.full(items, one), side) for one in along], 1)
        points.append(line[chosen])
        flags.append(np.broadcast_to(np.array(flag, np.uint8), (int(chosen.sum()), FLAGS)))
        owners.append(all_scenes[chosen])
    return np.concatenate(points), np.concatenate(flags), np.concatenate(owners)
