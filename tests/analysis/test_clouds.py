"""Clouds seen from one side: a rotation, the vertical upwards, near points last."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from rectify.analysis.clouds import Up, scatter, seen

UPWARDS: dict[Up, np.ndarray] = {"y": np.array([0.0, 1, 0]), "z": np.array([0.0, 0, 1])}


@pytest.mark.parametrize("up", UPWARDS)
def test_the_view_is_a_rotation_from_a_little_above(up: Up) -> None:
    axes = seen(np.eye(3), up)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)  # no mirror
    right, height, near = seen(UPWARDS[up][None], up)[0]
    assert right == pytest.approx(0, abs=1e-12)
    assert height == pytest.approx(np.cos(np.deg2rad(20)))
    assert near == pytest.approx(np.sin(np.deg2rad(20)))


def test_near_points_are_drawn_last_and_largest_with_their_own_colours() -> None:
    points = np.random.default_rng(0).standard_normal((30, 3))
    axes = Figure().subplots()
    scatter(axes, points, np.arange(30.0), "z", cmap="viridis")
    (dots,) = axes.collections
    order = dots.get_array().astype(int)
    expected = seen(points, "z")
    assert (np.diff(expected[order, 2]) >= 0).all()
    assert (np.diff(dots.get_sizes()) >= 0).all()
    np.testing.assert_allclose(dots.get_offsets(), expected[order, :2])
