"""Point clouds as pictures: seen from one side and a little above, near points over far ones."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Up = Literal["y", "z"]
TURN, ABOVE = np.deg2rad(-60), np.deg2rad(20)
"""Where the eye is: about the vertical axis, and above the horizon."""
LEAST, LARGEST = 1.0, 9.0
"""Area of the farthest and of the nearest point, in square points of print."""


def scatter(
    axes: "Axes",
    points: Float[np.ndarray, "points 3"],
    colours: np.ndarray,
    up: Up,
    **look: object,
) -> None:
    """Draw a cloud, in PDF and SVG as an image; the axes have the same unit in both directions.

    Args:
        axes: Of a panel of its own.
        points: Coordinates.
        colours: One for each point, or one value for each.
        up: Axis that points upwards.
        look: What matplotlib's ``scatter`` takes besides.
    """
    right, height, near = seen(points, up).T
    order = np.argsort(near, kind="stable")
    depth = (near - near.min()) / max(np.ptp(near), np.finfo(float).tiny)
    sizes = LEAST + (LARGEST - LEAST) * depth
    drawn = (right[order], height[order], sizes[order])
    axes.scatter(*drawn, c=np.asarray(colours)[order], linewidths=0, rasterized=True, **look)
    axes.set_aspect("equal")
    axes.margins(0.08)


def seen(points: Float[np.ndarray, "points 3"], up: Up) -> Float[np.ndarray, "points 3"]:
    """Return how far right, how high and how near each point is, without perspective."""
    standing = points if up == "z" else points[:, [0, 2, 1]] * np.array([1, -1, 1])
    cosine, sine = np.cos(TURN), np.sin(TURN)
    level = np.array([cosine, sine, 0])  # towards the eye
    vertical = np.array([0, 0, 1])
    axes = (
        np.array([-sine, cosine, 0]),
        np.cos(ABOVE) * vertical - np.sin(ABOVE) * level,
        np.cos(ABOVE) * level + np.sin(ABOVE) * vertical,
    )
    return standing @ np.stack(axes, 1)
