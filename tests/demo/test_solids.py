"""Each solid is the surface that it is named after; scans are torn as said."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rectify.data.clouds import CloudSet
from rectify.demo import solids as drawn
from rectify.demo.surfaces import box, disc, mantle, parallelogram, ring, triangle, zone
from rectify.demo.surfaces import drawn as points_of
from rectify.tasks.point_classification.readers.solids import read

SIDE, TALL, ROUND = 0.75, 0.9, 0.7


def near(value: np.ndarray, wanted: float) -> np.ndarray:
    return np.abs(value - wanted) < 1e-9


def in_box(p: np.ndarray, centre: tuple, sizes: tuple) -> np.ndarray:
    """Return whether points are on the surface of a box."""
    far = np.abs(p - centre) - np.array(sizes) / 2
    return near(far.max(1), 0)


def radius(p: np.ndarray) -> np.ndarray:
    return np.hypot(p[:, 0], p[:, 1])


def legs(p: np.ndarray, length: float, reach: float) -> np.ndarray:
    return np.any(
        [
            in_box(p, (x, y, -length / 2), (0.15, 0.15, length))
            for x in (-reach, reach)
            for y in (-reach, reach)
        ],
        axis=0,
    )


def helix(p: np.ndarray) -> np.ndarray:
    turn = 6 * np.pi * (p[:, 2] / 1.8 + 0.5)
    wire = np.stack([0.8 * np.cos(turn), 0.8 * np.sin(turn), p[:, 2]], 1)
    return near(np.linalg.norm(p - wire, axis=1), 0.08)


EQUATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sphere": lambda p: near(np.linalg.norm(p, axis=1), 1),
    "box": lambda p: near(np.abs(p).max(1), SIDE),
    "cylinder": lambda p: near(np.maximum(radius(p) / ROUND, np.abs(p[:, 2]) / TALL), 1),
    "cone": lambda p: near(radius(p), 0.9 * (0.8 - p[:, 2]) / 1.6) | near(p[:, 2], -0.8),
    "torus": lambda p: near((radius(p) - 0.8) ** 2 + p[:, 2] ** 2, 0.09),
    "pyramid": lambda p: near(np.abs(p[:, :2]).max(1), (0.9 - p[:, 2]) / 1.6) | near(p[:, 2], -0.7),
    "helix": helix,
    "tube": lambda p: near(radius(p), 0.7) | near(radius(p), 0.5),
    "hemisphere": lambda p: (
        (near(np.linalg.norm(p, axis=1), 1) & (p[:, 2] >= 0)) | (near(p[:, 2], 0) & (radius(p) < 1))
    ),
    "cross": lambda p: np.any(
        [in_box(p, (0, 0, 0), tuple(np.roll((2.0, 0.4, 0.4), axis))) for axis in range(3)], axis=0
    ),
    "table": lambda p: in_box(p, (0, 0, 0.05), (1.8, 1.8, 0.1)) | legs(p, 1.2, 0.8),
    "chair": lambda p: (
        in_box(p, (0, 0, 0.05), (1.2, 1.2, 0.1))
        | in_box(p, (-0.55, 0, 0.7), (0.1, 1.2, 1.2))
        | legs(p, 0.8, 0.5)
    ),
}


@pytest.mark.parametrize("name", drawn.SOLIDS)
def test_every_point_is_on_the_surface_of_its_name(name: str) -> None:
    found = points_of(drawn.SOLIDS[name], 2000, np.random.default_rng(0))
    assert EQUATIONS[name](found).all()
    others = [other for other in EQUATIONS if not EQUATIONS[other](found).all()]
    assert len(others) == len(EQUATIONS) - 1  # no two are the same


@pytest.mark.parametrize(
    ("patches", "share"),
    [
        ([parallelogram((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 1.0, 0.0))], 0.5),
        ([triangle((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 1.0, 0.0))], 0.75),
        ([disc(0.0, 2.0)], 0.5),
        ([mantle(0.0, 1.0, 2.0, 1.0)], 0.5),
        ([ring(2.0, 1.0)], 0.5),
        ([zone(-1.0, 1.0)], 0.5),
        (box((1.0, 0.0, 0.0), (2.0, 1.0, 1.0)), 0.5),
    ],
)
def test_points_are_even_by_area(patches: list, share: float) -> None:
    """Half of a symmetric surface has half of the points; of a triangle three quarters."""
    found = points_of(patches, 20_000, np.random.default_rng(0))
    middle = 1.0 if found[:, 0].min() >= 0 else 0.0
    assert np.mean(found[:, 0] < middle) == pytest.approx(share, abs=0.015)


def test_areas_are_those_of_geometry() -> None:
    assert zone(-1.0, 1.0).area == pytest.approx(4 * np.pi)
    assert mantle(0.0, 1.0, 1.0, 0.0).area == pytest.approx(np.pi * np.sqrt(2))
    assert disc(0.0, 2.0).area == pytest.approx(4 * np.pi)
    assert ring(2.0, 0.5).area == pytest.approx(4 * np.pi**2)
    assert triangle((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)).area == pytest.approx(0.5)
    assert sum(face.area for face in box((0.0, 0.0, 0.0), (1.0, 2.0, 3.0))) == pytest.approx(22)


def test_cones_and_tori_are_even_along_them() -> None:
    """Against counts by a fine division, whose areas are proportional to radius."""
    cone = points_of([mantle(0.0, 1.0, 1.0, 0.2)], 40_000, np.random.default_rng(0))
    counts, edges = np.histogram(cone[:, 2], bins=8, range=(0, 1))
    expected = 1.0 - 0.8 * (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), rtol=0.07)
    torus = points_of([ring(2.0, 1.0)], 40_000, np.random.default_rng(0))
    outer = np.mean(radius(torus) > 2)
    assert outer == pytest.approx(0.5 + 1 / (2 * np.pi), abs=0.01)  # Pappus


def sets_of(variant: str, **more: int) -> dict[str, CloudSet]:
    sizes = {"points": 100, "train_items": 6, "test_items": 3}
    return read(variant=variant, **(sizes | more))


@pytest.mark.parametrize("variant", drawn.VARIANTS)
def test_a_set_has_all_solids_equally_often(variant: str) -> None:
    sets = sets_of(variant)
    assert sets["train"].points.shape == (72, 100, 3)
    assert sets["test"].labels.bincount().tolist() == [3] * 12
    assert sets["train"].classes == tuple(EQUATIONS)
    own = 100 if variant == "only" else 80
    assert (sets["train"].objects.sum(1) == own).all()
    assert sets["test"].points.isfinite().all()


def test_clean_clouds_are_turned_and_stretched_alone() -> None:
    boxes = sets_of("only", train_items=40)["train"].points[40:80].double()
    height = boxes[..., 2].abs().amax(1)
    assert (height > 0.95 * SIDE * 2 / 3).all()
    assert (height < SIDE * 3 / 2 + 1e-6).all()
    assert height.std() > 0.1
    spread = boxes[..., 0].abs().amax(1) / boxes[..., 1].abs().amax(1)
    assert spread.std() > 0.1
    spheres = sets_of("only")["train"].points[:6].double()
    for cloud in spheres:  # a stretched sphere is an ellipsoid along the axes
        weights = np.linalg.lstsq(cloud.square().numpy(), np.ones(100), rcond=None)[0]
        np.testing.assert_allclose(cloud.square().numpy() @ weights, 1, atol=1e-5)


@pytest.mark.parametrize("variant", ["bg", "hardest"])
def test_a_scan_stands_on_a_floor_with_noise_about_its_middle(variant: str) -> None:
    clouds = sets_of(variant)["train"]
    assert clouds.points.mean(1).abs().max() < 1e-6
    heights = clouds.points[~clouds.objects].view(72, 20, 3)[..., 2]
    assert heights.var(1).mean().sqrt() == pytest.approx(drawn.NOISE, rel=0.06)
    for cloud, own in zip(clouds.points, clouds.objects, strict=True):
        floor, solid = cloud[~own], cloud[own]
        assert solid[:, 2].min() > floor[:, 2].mean() - 5 * drawn.NOISE
        middle = floor[:, :2].mean(0)
        assert (floor[:, :2] - middle).norm(dim=1).max() < 2 * drawn.REACH


def test_the_hardest_have_a_part_cut_off() -> None:
    """Of a sphere: a zone of up to 30 % of its points, by the least height along any direction."""
    random = np.random.default_rng(0)
    spheres = points_of(drawn.SOLIDS["sphere"], 50 * 300, random).reshape(50, 300, 3)
    cut = drawn._cut(spheres, 200, random)
    assert cut.shape == (50, 200, 3)
    directions = random.standard_normal((3000, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    gaps = np.array([1 - (cloud @ directions.T).max(0).min() for cloud in cut]) / 2
    assert gaps.min() < 0.08  # share of the sphere's area that is bare
    assert 0.2 < gaps.max() < drawn.CUT + 0.05
    whole = [1 - (cloud[:200] @ directions.T).max(0).min() for cloud in spheres]
    assert max(whole) / 2 < 0.08
    for before, after in zip(spheres, cut, strict=True):
        assert len(np.unique(after, axis=0)) == 200
        assert {*map(tuple, after)} <= {*map(tuple, before)}


def test_the_same_seed_gives_the_same_clouds() -> None:
    one, again, other = (sets_of("hardest", seed=seed)["train"].points for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], sets_of("bg", seed=1)["train"].points[0])


def test_another_variant_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"solids: variant: must be .* got 'hard'"):
        sets_of("hard")
