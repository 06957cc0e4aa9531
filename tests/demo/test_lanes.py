"""The drawn traffic: roads, junctions, cars that follow, and what a forecast needs."""

import numpy as np
import pytest
import torch

from rectify.data.forecasts import OBSERVED, Lanes, Scene
from rectify.demo import lanes as drawing
from rectify.demo.lanes import drawn, lanes
from rectify.tasks.motion_forecasting import measures
from tests.helpers.forecasters import constant_velocity


@pytest.fixture(scope="module")
def train() -> tuple[list[Scene], Lanes]:
    scenes, maps = drawn(seed=0, train_items=200, test_items=1)["train"]
    return scenes, maps["PIT"]


def test_a_scene_has_a_scored_car_that_is_always_seen(train: tuple) -> None:
    scenes, _ = train
    assert all(scene.seen[0].all() for scene in scenes)
    counts = [len(scene.tracks) for scene in scenes]
    assert set(counts) <= set(range(1, 7))
    assert any((~scene.seen).any() for scene in scenes)  # tracks start late, or end early
    for scene in scenes:
        assert scene.seen.any(1).all()
        assert (scene.tracks[~scene.seen] == 0).all()


def test_cars_move_as_cars_do(train: tuple) -> None:
    """At most 15 m/s, 8 m/s2 of braking, forward only: beyond the noise of each position."""
    scenes, _ = train
    for scene in scenes:
        for track, seen in zip(scene.tracks, scene.seen, strict=True):
            steps = np.linalg.norm(np.diff(track, axis=0), axis=1)[seen[1:] & seen[:-1]]
            assert (steps < 1.5 + 8 * drawing.NOISE).all()


@pytest.mark.slow
def test_the_scored_car_stays_on_a_lane(train: tuple) -> None:
    scenes, found = train
    for scene in scenes[:60]:
        gaps = np.linalg.norm(scene.tracks[0][:, None] - found.points.reshape(1, -1, 2), axis=2)
        # a lane has a point every 2 m
        assert gaps.min(1).max() < 1.0 + 5 * drawing.NOISE + 0.2


def test_a_junction_has_one_to_three_open_branches(train: tuple) -> None:
    scenes, found = train
    first = found.flags[:, 1] == 1  # in the junction: branches, and the oncoming lane
    owners = np.round(found.points[first, 0] / drawing.SPACING).astype(int)
    _, counts = np.unique(owners, axis=0, return_counts=True)
    assert len(counts) == len(scenes)
    assert set(counts - 1) == {1, 2, 3}
    assert set(found.flags[:, 0].tolist()) == {0, 1, 2}


def test_a_follower_keeps_its_distance(train: tuple) -> None:
    """The second agent of most scenes is ahead; nobody runs into it."""
    random = np.random.default_rng(0)
    own, leader = drawing._along(random, np.zeros(500, int))
    gaps = (leader - own)[np.isfinite(leader).all(1)]
    assert 0.65 * 500 < len(gaps) < 0.85 * 500
    assert gaps.min() > 4.5
    assert (np.diff(own, axis=1) >= 0).all()


def test_a_car_is_slow_in_a_bend() -> None:
    branch = np.repeat([1, 2], 200)
    own, _ = drawing._along(np.random.default_rng(1), branch)
    speed = np.diff(own, axis=1) / drawing.SECONDS
    for turned in (1, 2):
        long = np.pi / 2 / abs(drawing.BENDS[turned])
        rows = branch == turned
        inside = (own[rows, :-1] > 1) & (own[rows, :-1] < long - 1)
        assert inside.any()
        assert np.median(speed[rows][inside]) < drawing.SLOW[turned] + 0.5
    straight, _ = drawing._along(np.random.default_rng(1), 0 * branch)
    assert np.median(np.diff(straight, axis=1)) / drawing.SECONDS > 7.5


def test_the_same_seed_gives_the_same_scenes() -> None:
    one, again, other = (lanes(seed=seed, train_items=3, test_items=2) for seed in (1, 1, 2))
    assert torch.equal(one["train"].tracks, again["train"].tracks)
    assert not torch.equal(one["train"].origins, other["train"].origins)
    assert one["test"].cities == ("MIA", "MIA")


def test_who_goes_straight_on_is_far_off() -> None:
    """Constant velocity misses most scenes: there is something to learn."""
    batch = lanes(train_items=1, test_items=300)["test"].batch(torch.arange(300))
    way = constant_velocity(batch["tracks"])[:, :, None]
    outputs = {"trajectories": way, "scores": torch.zeros(way.shape[:3])}
    found = measures.scores(outputs, batch["tracks"][:, 0, OBSERVED:], 1)
    assert found["min_fde@1"].mean() > 4
    assert found["miss_rate@1"].mean() > 0.6
