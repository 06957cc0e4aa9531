"""Magnitude and frequency, each against a loop over tokens and channels, and what changes them."""

import cmath
import math

import pytest
import torch
from torch import Tensor

from rectify.trunks.activations import frequency, magnitude, pixel_tokens, scaled


@pytest.fixture
def tokens() -> Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(3, 2, 4, 6, generator=draws, dtype=torch.float64)


def mean_of(vectors: list[list[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*vectors, strict=True)]


def lengths(grid: list[list[list[float]]], center: str) -> list[list[float]]:
    """Return the length of each vector of a grid less the mean of all, or of its column."""
    every = mean_of([vector for row in grid for vector in row])
    columns = [mean_of([row[column] for row in grid]) for column in range(len(grid[0]))]
    return [
        [math.dist(vector, every if center == "image" else columns[column])
         for column, vector in enumerate(row)]
        for row in grid
    ]  # fmt: skip


def between(grid: list[list[float]]) -> list[list[float]]:
    """Return a grid from its least value, as 0, to its largest, as 1."""
    values = [value for row in grid for value in row]
    low, high = min(values), max(values)
    return [[(value - low) / (high - low) for value in row] for row in grid]


def phases(vector: list[float]) -> list[float]:
    """Return the angles of a discrete Fourier transform, term by term."""
    n = len(vector)
    sums = [
        sum(x * cmath.exp(-2j * math.pi * k * t / n) for t, x in enumerate(vector))
        for k in range(n)
    ]
    real = {0, n / 2}  # of a real vector these are real; rounding must not choose -pi
    return [cmath.phase(z.real if k in real else z) for k, z in enumerate(sums)]


@pytest.mark.parametrize("center", ["image", "column"])
def test_magnitude_is_the_distance_from_the_mean_token(tokens: Tensor, center: str) -> None:
    expected = [between(lengths(grid, center)) for grid in tokens.tolist()]
    torch.testing.assert_close(magnitude(tokens, center), torch.tensor(expected).double())


@pytest.mark.parametrize("center", ["image", "column"])
def test_frequency_is_the_distance_from_the_mean_phase(tokens: Tensor, center: str) -> None:
    grids = [[[phases(vector) for vector in row] for row in grid] for grid in tokens.tolist()]
    expected = [between(lengths(grid, center)) for grid in grids]
    torch.testing.assert_close(frequency(tokens, center), torch.tensor(expected).double())


@pytest.mark.parametrize("activation", [magnitude, frequency])
def test_the_two_centers_differ(tokens: Tensor, activation) -> None:
    assert not torch.allclose(activation(tokens, "image"), activation(tokens, "column"))


def test_magnitude_ignores_shift_scale_and_the_order_of_channels(tokens: Tensor) -> None:
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    for changed in (tokens + torch.arange(6), 3 * tokens, tokens[..., order], -tokens):
        torch.testing.assert_close(magnitude(changed), magnitude(tokens))


def test_frequency_ignores_scale_but_not_the_order_of_channels(tokens: Tensor) -> None:
    torch.testing.assert_close(frequency(3 * tokens), frequency(tokens))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(frequency(tokens[..., order]), frequency(tokens), atol=0.05)


@pytest.mark.parametrize("activation", [magnitude, frequency])
def test_an_image_does_not_depend_on_the_others(tokens: Tensor, activation) -> None:
    torch.testing.assert_close(activation(tokens)[1:2], activation(tokens[1:2]))


def test_maps_reach_from_0_to_1_and_flat_ones_are_0() -> None:
    maps = scaled(torch.tensor([[[2.0, 4.0], [3.0, 6.0]], [[5.0, 5.0], [5.0, 5.0]]]))
    assert maps.tolist() == [[[0, 0.5], [0.25, 1]], [[0, 0], [0, 0]]]


def test_pixel_tokens_are_the_pixels_of_each_patch() -> None:
    images = torch.arange(2 * 3 * 4 * 6).float().view(2, 3, 4, 6)
    tokens = pixel_tokens(images, (2, 3))
    assert tokens.shape == (2, 2, 3, 3 * 2 * 2)
    for row in range(2):
        for column in range(3):
            patch = images[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert tokens[1, row, column].tolist() == patch.flatten().tolist()
