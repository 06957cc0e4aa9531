"""Farthest point sampling, nearest neighbours and balls of point clouds, in plain torch.

All give indices, so no gradient goes through them, and none is computed in half precision: a cloud
must be grouped the same way whatever autocast is on.
"""

import contextlib

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ORIGIN = 1e-3
"""Squared norm up to which the CUDA kernel of PointNet++, and so of Point-BERT, takes no point."""
DISTANCES = 2**22
"""Most distances that are in memory at once, but for those of one cloud."""
EXACT = "donot_use_mm_for_euclid_dist"  # a product of matrices loses near points


@torch.no_grad()
def farthest_points(
    clouds: Float[Tensor, "batch points 3"],
    count: int,
    starts: Int64[Tensor, " batch"] | None = None,
    *,
    skip_origin: bool = False,
) -> Int64[Tensor, "batch count"]:
    """Return the indices of points each of which is farthest from those before it.

    The first ``n`` of a larger ``count`` are those of ``n``.

    Args:
        clouds: Coordinates.
        count: Points that are taken of each cloud.
        starts: Index of each cloud's first point; 0 if None.
        skip_origin: Whether points next to the origin are never taken, but for the first one.

    Raises:
        ValueError: If a cloud has fewer points.
    """
    batch, points, _ = clouds.shape
    check_count(count, points)
    with _without_autocast(clouds.device):
        clouds = clouds.float()
        distances = clouds.new_full((batch, points), torch.inf)
        if skip_origin:
            distances.masked_fill_(clouds.square().sum(2) <= ORIGIN, -1.0)
        last = clouds.new_zeros(batch, dtype=torch.int64) if starts is None else starts
        chosen = [last]
        rows = torch.arange(batch, device=clouds.device)
        for _ in range(count - 1):
            from_last = (clouds - clouds[rows, last][:, None]).square().sum(2)
            distances = torch.minimum(distances, from_last)
            last = distances.argmax(1)
            chosen.append(last)
    return torch.stack(chosen, 1)


@torch.no_grad()
def nearest_points(
    clouds: Float[Tensor, "batch points 3"], centres: Float[Tensor, "batch centres 3"], count: int
) -> Int64[Tensor, "batch centres count"]:
    """Return the indices of the ``count`` points nearest to each centre, the nearest first.

    Raises:
        ValueError: If a cloud has fewer points.
    """
    check_count(count, clouds.shape[1])
    with _without_autocast(clouds.device):
        distances = torch.cdist(centres.float(), clouds.float(), compute_mode=EXACT)
    return distances.topk(count, largest=False).indices


@torch.no_grad()
def points_within(
    clouds: Float[Tensor, "batch points 3"],
    centres: Float[Tensor, "batch centres 3"],
    radius: float,
    count: int,
) -> Int64[Tensor, "batch centres count"]:
    """Return the indices of the first ``count`` points nearer to each centre than ``radius``.

    The first in the order of the cloud, as the CUDA kernel of PointNet++ takes them. Where there
    are fewer, the first one fills the places that are left; where there is none, point 0 does.

    Raises:
        ValueError: If a cloud has fewer points.
    """
    points = clouds.shape[1]
    check_count(count, points)
    order = torch.arange(points, dtype=torch.int32, device=clouds.device)
    together = max(1, DISTANCES // (points * centres.shape[1]))  # clouds
    parts = zip(clouds.float().split(together), centres.float().split(together), strict=True)
    chosen = []
    with _without_autocast(clouds.device):
        for some, own in parts:
            is_far = torch.cdist(own, some, compute_mode=EXACT) >= radius
            numbers = order.expand_as(is_far).masked_fill(is_far, points)
            chosen.append(numbers.topk(count, largest=False, sorted=True).values)
    near = torch.cat(chosen).long()
    first = near[:, :, :1] % points  # none at all: 0
    return torch.where(near < points, near, first)


def interpolated(
    values: Float[Tensor, "batch known channels"],
    known: Float[Tensor, "batch known 3"],
    wanted: Float[Tensor, "batch wanted 3"],
) -> Float[Tensor, "batch wanted channels"]:
    """Return values at other points: of the three nearest known ones, by inverse distance.

    Raises:
        ValueError: If fewer than three points are known.
    """
    near = nearest_points(known, wanted, 3)
    distances = (taken(known, near) - wanted[:, :, None]).norm(dim=3)
    weights = 1 / (distances + 1e-8)
    weights = weights / weights.sum(2, keepdim=True)
    return (taken(values, near) * weights[..., None]).sum(2)


def _without_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a block without half precision; shapes without numbers have none to begin with."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def taken(
    clouds: Float[Tensor, "batch points channels"], indices: Int64[Tensor, " batch *chosen"]
) -> Float[Tensor, " batch *chosen channels"]:
    """Return the points of each cloud, or what is known of each, that have the indices."""
    rows = torch.arange(len(clouds), device=clouds.device)
    return clouds[rows.view(-1, *[1] * (indices.ndim - 1)), indices]


def check_count(count: int, points: int) -> None:
    """Check that a cloud has the points that are taken of it.

    Raises:
        ValueError: If it has fewer.
    """
    if not 1 <= count <= points:
        raise ValueError(
            f"points: between 1 and all {points} points of a cloud can be taken, got {count}. "
            "Lower the points of the set, or the groups and their size of the trunk."
        )
