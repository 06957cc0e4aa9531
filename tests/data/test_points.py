"""Farthest points, nearest neighbours and balls: against loops that only compare distances."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.data.points import (
    farthest_points,
    interpolated,
    nearest_points,
    points_within,
    taken,
)
from rectify.runtime import generator


def clouds(batch: int = 3, points: int = 40, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(batch, points, 3, generator=generator(0, "clouds"))


def farthest_by_loop(cloud: np.ndarray, count: int, start: int, skips: bool) -> list[int]:
    """Each next point has the largest distance to the nearest of those before it."""
    chosen = [start]
    allowed = [n for n, point in enumerate(cloud) if not (skips and point @ point <= 1e-3)]
    while len(chosen) < count:
        gaps = {n: min(np.linalg.norm(cloud[n] - cloud[m]) for m in chosen) for n in allowed}
        chosen.append(max(gaps, key=gaps.__getitem__))
    return chosen


@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("starts", [None, [5, 0, 39]])
def test_farthest_points_are_those_of_a_loop(skips: bool, starts: list[int] | None) -> None:
    made = clouds(scale=0.05)  # some points lie next to the origin
    found = farthest_points(
        made, 12, None if starts is None else torch.tensor(starts), skip_origin=skips
    )
    for cloud, start, indices in zip(made.numpy(), starts or [0, 0, 0], found, strict=True):
        assert indices.tolist() == farthest_by_loop(cloud.astype(float), 12, start, skips)
        assert len(set(indices.tolist())) == 12


def test_points_next_to_the_origin_are_taken_last_or_never() -> None:
    made = torch.cat([torch.full((1, 1, 3), 1e-3), clouds(1, 9)], 1)
    started = torch.tensor([4])
    assert 0 not in farthest_points(made, 9, started, skip_origin=True)
    assert 0 in farthest_points(made, 10, started)


def test_fewer_points_are_the_first_of_more() -> None:
    made = clouds()
    assert torch.equal(farthest_points(made, 30)[:, :7], farthest_points(made, 7))


def test_all_points_are_a_permutation() -> None:
    found = farthest_points(clouds(), 40)
    assert torch.equal(found.sort(1).values, torch.arange(40).expand(3, -1))


def test_the_order_of_the_points_changes_only_their_numbers() -> None:
    made, order = clouds(1), torch.randperm(40, generator=generator(1))
    start = order.argsort()[:1]  # where point 0 went
    same = taken(made[:, order], farthest_points(made[:, order], 9, start))
    assert torch.equal(same, taken(made, farthest_points(made, 9)))


def test_nearest_points_are_those_of_a_sort() -> None:
    made = clouds()
    centres = made[:, :5]
    found = nearest_points(made, centres, 6)
    for cloud, middle, indices in zip(made.double(), centres.double(), found, strict=True):
        for centre, own in zip(middle, indices, strict=True):
            distances = (cloud - centre).square().sum(1)
            assert torch.equal(own, distances.argsort()[:6])
    assert torch.equal(found[:, :, 0], torch.arange(5).expand(3, -1))  # a centre is its own


def test_copies_of_a_point_are_all_as_near() -> None:
    made = clouds(1, 4).repeat(1, 3, 1)
    near = taken(made, nearest_points(made, made[:, :4], 3))
    assert torch.equal(near, made[:, :4, None].expand(-1, -1, 3, -1))


@pytest.mark.parametrize(("radius", "together"), [(0.7, 3), (1.5, 2), (1.5, 0)])
def test_a_ball_has_the_first_points_of_the_cloud_that_are_near(
    radius: float, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rectify.data.points.DISTANCES", together * 40 * 6)
    made = clouds()
    centres = torch.cat([made[:, :5], torch.full((3, 1, 3), 50.0)], 1)  # nothing is near the last
    found = points_within(made, centres, radius, 6)
    sizes = set()
    for cloud, middle, balls in zip(made.double(), centres.double(), found, strict=True):
        for centre, ball in zip(middle, balls.tolist(), strict=True):
            near = [n for n, point in enumerate(cloud) if (point - centre).norm() < radius]
            first = near[0] if near else 0
            assert ball == (near[:6] + [first] * 6)[:6]
            sizes.add(min(len(near), 6))
    assert {0, 6} < sizes  # empty, full, and between


def test_interpolation_is_by_inverse_distance_to_three() -> None:
    made, values = clouds(2), torch.randn(2, 10, 4, generator=generator(1))
    known, wanted = made[:, :10], made[:, 8:13]  # two of these are known
    found = interpolated(values, known, wanted)
    for batch in range(2):
        for place, point in enumerate(wanted[batch]):
            gaps = [(point - other).norm().item() for other in known[batch]]
            near = sorted(range(10), key=gaps.__getitem__)[:3]
            weights = [1 / (gaps[n] + 1e-8) for n in near]
            mixed = sum(w * values[batch, n] for w, n in zip(weights, near, strict=True))
            torch.testing.assert_close(found[batch, place], mixed / sum(weights))
    torch.testing.assert_close(found[:, :2], values[:, 8:])


def test_half_precision_around_it_changes_nothing() -> None:
    made = clouds(scale=0.01) + 3  # bfloat16 cannot tell these points apart
    with torch.autocast("cpu", torch.bfloat16):
        centres = farthest_points(made, 8)
        near = nearest_points(made, taken(made, centres), 4)
        within = points_within(made, taken(made, centres), 0.01, 4)
    assert torch.equal(centres, farthest_points(made, 8))
    assert torch.equal(near, nearest_points(made, taken(made, centres), 4))
    assert torch.equal(within, points_within(made, taken(made, centres), 0.01, 4))


@pytest.mark.parametrize("count", [0, 41])
def test_more_points_than_there_are_is_one_line(count: int) -> None:
    for ask in (
        farthest_points,
        lambda made, n: nearest_points(made, made[:, :2], n),
        lambda made, n: points_within(made, made[:, :2], 1.0, n),
    ):
        with pytest.raises(ValueError, match=f"all 40 points of a cloud can be taken, got {count}"):
            ask(clouds(), count)
