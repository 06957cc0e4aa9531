"""Analytic surfaces: patches whose points are drawn evenly by area.

A patch maps two numbers in 0 .. 1 to a point, so that even numbers give even points; a surface is
some patches, each with its area.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

Numbers = Float64[np.ndarray, " points"]
Points = Float64[np.ndarray, "points 3"]
Place = tuple[float, float, float]


class Patch(NamedTuple):
    """A part of a surface."""

    area: float
    at: Callable[[Numbers, Numbers], Points]


def drawn(patches: Sequence[Patch], points: int, random: np.random.Generator) -> Points:
    """Return points that are even over all patches."""
    areas = np.array([patch.area for patch in patches])
    chosen = random.choice(len(patches), points, p=areas / areas.sum())
    numbers = random.random((2, points))
    made = np.empty((points, 3))
    for number, patch in enumerate(patches):
        own = chosen == number
        made[own] = patch.at(*numbers[:, own])
    return made


def parallelogram(corner: Place, right: Place, up: Place) -> Patch:
    """Return the patch between a corner and two edges."""
    first, second = np.array(right), np.array(up)
    area = float(np.linalg.norm(np.cross(first, second)))
    return Patch(area, lambda u, v: np.array(corner) + u[:, None] * first + v[:, None] * second)


def triangle(corner: Place, right: Place, up: Place) -> Patch:
    """Return the half of a parallelogram that has its corner."""
    whole = parallelogram(corner, right, up)

    def at(u: Numbers, v: Numbers) -> Points:
        beyond = u + v > 1
        return whole.at(np.where(beyond, 1 - u, u), np.where(beyond, 1 - v, v))

    return Patch(whole.area / 2, at)


def box(centre: Place, sizes: Place) -> list[Patch]:
    """Return the six faces of a box."""
    low = np.array(centre) - np.array(sizes) / 2
    edges = np.diag(sizes)
    faces = []
    for axis in range(3):
        right, up = edges[(axis + 1) % 3], edges[(axis + 2) % 3]
        faces += [parallelogram(tuple(low + side), tuple(right), tuple(up))
                  for side in (np.zeros(3), edges[axis])]  # fmt: skip
    return faces


def mantle(low: float, high: float, bottom: float, top: float) -> Patch:
    """Return the side of a cone without its tip, of radius ``bottom`` at ``low``, ``top`` above."""
    slant = float(np.hypot(high - low, top - bottom))

    def at(u: Numbers, v: Numbers) -> Points:
        radius = np.sqrt(bottom**2 + u * (top**2 - bottom**2))
        share = u if top == bottom else (radius - bottom) / (top - bottom)
        return _round(radius, v, low + share * (high - low))

    return Patch(np.pi * (bottom + top) * slant, at)


def disc(height: float, radius: float) -> Patch:
    """Return a level disc."""
    return Patch(
        np.pi * radius**2, lambda u, v: _round(radius * np.sqrt(u), v, np.full(len(u), height))
    )


def zone(low: float, high: float) -> Patch:
    """Return the part of the unit sphere between two heights."""

    def at(u: Numbers, v: Numbers) -> Points:
        height = low + u * (high - low)
        return _round(np.sqrt(1 - height**2), v, height)

    return Patch(2 * np.pi * (high - low), at)


def ring(radius: float, thickness: float) -> Patch:
    """Return a torus about the vertical axis."""
    angles = np.linspace(0, 2 * np.pi, 1001)
    shares = (radius * angles + thickness * np.sin(angles)) / (2 * np.pi * radius)

    def at(u: Numbers, v: Numbers) -> Points:
        angle = np.interp(u, shares, angles)
        return _round(radius + thickness * np.cos(angle), v, thickness * np.sin(angle))

    return Patch(4 * np.pi**2 * radius * thickness, at)


def spiral(radius: float, height: float, turns: float, thickness: float) -> Patch:
    """Return a wire around the vertical axis, its sections level discs' edges."""

    def at(u: Numbers, v: Numbers) -> Points:
        wire = _round(np.full(len(u), radius), turns * u, height * (u - 0.5))
        return wire + _round(np.full(len(u), thickness), v, np.zeros(len(u)))

    return Patch(1.0, at)


def _round(radius: Numbers, turn: Numbers, height: Numbers) -> Points:
    angle = 2 * np.pi * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)
