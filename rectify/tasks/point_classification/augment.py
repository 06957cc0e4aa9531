"""From stored clouds to the points that a model sees; every draw is a cloud's own.

The published codes choose the same ranks of farthest points for all clouds of a batch. Here each
cloud has its own choice: a draw that a batch shares would correlate the gradients of its samples.
"""

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from rectify.data.points import farthest_points, taken
from rectify.runtime import generator

SURPLUS = 75 / 64
"""Farthest points of which those of the model are drawn: 1,200 for 1,024, as Point-BERT has it."""


def unit_ball(clouds: Float[Tensor, "items points 3"]) -> Float[Tensor, "items points 3"]:
    """Return each cloud about its mean, its farthest point at distance 1."""
    centred = clouds - clouds.mean(1, keepdim=True)
    return centred / centred.norm(dim=2).amax(1)[:, None, None].clamp(min=torch.finfo().tiny)


def fixed_points(
    clouds: Float[Tensor, "items points 3"], count: int, skip_origin: bool
) -> Int64[Tensor, "items count"]:
    """Return which are the farthest points of each cloud from its first one on; all as they are."""
    items, stored, _ = clouds.shape
    if count == stored:
        return torch.arange(count, device=clouds.device).expand(items, -1)
    return farthest_points(clouds, count, skip_origin=skip_origin)


def drawn_points(
    clouds: Float[Tensor, "batch points 3"],
    count: int,
    seeds: Int64[Tensor, " batch"],
    skip_origin: bool,
) -> Float[Tensor, "batch count 3"]:
    """Return a random choice, in random order, of the farthest points from a random one on.

    Args:
        clouds: All stored points.
        count: Points that are wanted.
        seeds: One for each cloud.
        skip_origin: As in ``farthest_points``.
    """
    stored = clouds.shape[1]
    surplus = min(stored, int(count * SURPLUS))
    draws = [generator(seed, "points") for seed in seeds.tolist()]
    starts = torch.tensor([int(torch.randint(stored, (), generator=draw)) for draw in draws])
    ranks = torch.stack([torch.randperm(surplus, generator=draw)[:count] for draw in draws])
    ranks = ranks.to(clouds.device)
    if surplus == stored:
        return taken(clouds, ranks)
    starts = starts.to(clouds.device)
    return taken(
        clouds, farthest_points(clouds, surplus, starts, skip_origin=skip_origin).gather(1, ranks)
    )


def scaled_and_shifted(
    clouds: Float32[Tensor, "batch points 3"],
    seeds: Int64[Tensor, " batch"],
    scale: float,
    shift: float,
) -> Float32[Tensor, "batch points 3"]:
    """Return each cloud with its own factor and offset along each axis.

    Args:
        clouds: Coordinates.
        seeds: One for each cloud.
        scale: Factors are uniform in 1 / scale .. scale.
        shift: Offsets are uniform in -shift .. shift.
    """
    numbers = torch.stack(
        [torch.rand(2, 1, 3, generator=generator(seed, "place")) for seed in seeds.tolist()]
    ).to(clouds.device)
    factors = 1 / scale + (scale - 1 / scale) * numbers[:, 0]
    return clouds * factors + shift * (2 * numbers[:, 1] - 1)
