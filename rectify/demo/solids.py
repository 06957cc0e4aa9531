"""Point clouds of twelve solids, as clean as models or as torn as scans; chance is 1 / 12.

The three variants are those of ScanObjectNN in miniature: ``only`` the object, ``bg`` with floor
and noise, ``hardest`` with a part cut off as well and its middle displaced. Each cloud is turned
about the vertical axis and stretched along each.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64

from rectify.data.clouds import CloudSet
from rectify.demo.surfaces import (
    Patch,
    box,
    disc,
    drawn,
    mantle,
    parallelogram,
    ring,
    spiral,
    triangle,
    zone,
)
from rectify.runtime import seed_for
from rectify.typed import check_known

Clouds = Float64[np.ndarray, "items _ 3"]


def _legs(length: float, reach: float) -> list[Patch]:
    return [
        face
        for right in (-reach, reach)
        for far in (-reach, reach)
        for face in box((right, far, -length / 2), (0.15, 0.15, length))
    ]


def _pyramid() -> list[Patch]:
    corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    sides = [
        triangle((x, y, -0.7), (nx - x, ny - y, 0.0), (-x, -y, 1.6))
        for (x, y), (nx, ny) in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return [*sides, parallelogram((-1.0, -1.0, -0.7), (2.0, 0.0, 0.0), (0.0, 2.0, 0.0))]


SOLIDS: dict[str, list[Patch]] = {
    "sphere": [zone(-1.0, 1.0)],
    "box": box((0.0, 0.0, 0.0), (1.5, 1.5, 1.5)),
    "cylinder": [mantle(-0.9, 0.9, 0.7, 0.7), disc(-0.9, 0.7), disc(0.9, 0.7)],
    "cone": [mantle(-0.8, 0.8, 0.9, 0.0), disc(-0.8, 0.9)],
    "torus": [ring(0.8, 0.3)],
    "pyramid": _pyramid(),
    "helix": [spiral(0.8, 1.8, 3.0, 0.08)],
    "tube": [mantle(-0.9, 0.9, 0.7, 0.7), mantle(-0.9, 0.9, 0.5, 0.5)],
    "hemisphere": [zone(0.0, 1.0), disc(0.0, 1.0)],
    "cross": [
        *box((0.0, 0.0, 0.0), (2.0, 0.4, 0.4)),
        *box((0.0, 0.0, 0.0), (0.4, 2.0, 0.4)),
        *box((0.0, 0.0, 0.0), (0.4, 0.4, 2.0)),
    ],
    "table": [*box((0.0, 0.0, 0.05), (1.8, 1.8, 0.1)), *_legs(1.2, 0.8)],
    "chair": [
        *box((0.0, 0.0, 0.05), (1.2, 1.2, 0.1)),
        *box((-0.55, 0.0, 0.7), (0.1, 1.2, 1.2)),
        *_legs(0.8, 0.5),
    ],
}
VARIANTS = ("only", "bg", "hardest")
STRETCH = (2 / 3, 3 / 2)
FLOOR, CUT = 0.2, 0.3
"""Share of a cloud's points that are floor, and the most of the object that is cut off."""
NOISE = 0.02
REACH = 1.5  # of the floor, from the object's middle


def solids(
    *, points: int, seed: int, variant: str, train_items: int, test_items: int
) -> dict[str, CloudSet]:
    """Return train and test.

    Args:
        points: Of a cloud.
        seed: Of every draw.
        variant: One of ``VARIANTS``.
        train_items: Training clouds per solid.
        test_items: Test clouds per solid.

    Raises:
        ValueError: If there is no such variant.
    """
    check_known("solids: variant", variant, VARIANTS, "a variant of the solids")
    shares = {"train": train_items, "test": test_items}
    return {split: _split(split, items, points, seed, variant) for split, items in shares.items()}


def _split(split: str, items: int, points: int, seed: int, variant: str) -> CloudSet:
    random = np.random.default_rng(seed_for(seed, "solids", variant, split))
    made = [_clouds(patches, items, points, variant, random) for patches in SOLIDS.values()]
    clouds, objects = (np.concatenate(parts) for parts in zip(*made, strict=True))
    return CloudSet(
        torch.from_numpy(clouds.astype(np.float32)),
        torch.arange(len(SOLIDS)).repeat_interleave(items),
        tuple(SOLIDS),
        tuple(f"{variant} {name}, draw {item}" for name in SOLIDS for item in range(items)),
        torch.from_numpy(objects),
    )


def _clouds(
    patches: list[Patch], items: int, points: int, variant: str, random: np.random.Generator
) -> tuple[Clouds, Bool[np.ndarray, "items _"]]:
    """Return clouds of one solid, and which points are of it."""
    own = points if variant == "only" else points - round(FLOOR * points)
    spare = int(np.ceil(own / (1 - CUT))) if variant == "hardest" else own
    whole = drawn(patches, items * spare, random).reshape(items, spare, 3)
    whole = _turned(whole, random) * random.uniform(*STRETCH, (items, 1, 3))
    floor = _floor(whole, points - own, random)
    kept = _cut(whole, own, random) if variant == "hardest" else whole
    clouds = np.concatenate([kept, floor], 1)
    objects = np.broadcast_to(np.arange(points) < own, (items, points))
    if variant != "only":
        clouds = clouds + NOISE * random.standard_normal(clouds.shape)
        clouds -= clouds.mean(1, keepdims=True)
    order = random.permuted(np.broadcast_to(np.arange(points), (items, points)), axis=1)
    return np.take_along_axis(clouds, order[..., None], 1), np.take_along_axis(objects, order, 1)


def _turned(clouds: Clouds, random: np.random.Generator) -> Clouds:
    angles = random.uniform(0, 2 * np.pi, (len(clouds), 1))
    (x, y, z), (cosine, sine) = np.moveaxis(clouds, 2, 0), (np.cos(angles), np.sin(angles))
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], 2)


def _floor(clouds: Clouds, points: int, random: np.random.Generator) -> Clouds:
    """Return points below each cloud, even in a disc."""
    radius, angles = random.random((2, len(clouds), points))
    radius, angles = REACH * np.sqrt(radius), 2 * np.pi * angles
    height = np.broadcast_to(clouds[..., 2].min(1, keepdims=True), radius.shape)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), height], 2)


def _cut(clouds: Clouds, kept: int, random: np.random.Generator) -> Clouds:
    """Return so many points of each cloud on one side of a random plane, at random."""
    items, points, _ = clouds.shape
    direction = random.standard_normal((items, 1, 3))
    ranks = (clouds * direction).sum(2).argsort(1).argsort(1)
    left = np.ceil((1 - CUT * random.random((items, 1))) * points)
    lots = random.random((items, points)) + (ranks >= left)  # what is cut off comes last
    chosen = lots.argsort(1)[:, :kept]
    return np.take_along_axis(clouds, chosen[..., None], 1)
