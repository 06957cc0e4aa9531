"""Similarity of two feature spaces by mutual k nearest neighbours (Mutual-KNN), and its null.

Two feature spaces agree at an item when the item has the same neighbours in both. The score
is the mean share of common neighbours (Eq. 4; Huh et al., 2024), so it lies in 0 .. 1, and
two unrelated spaces score about ``k / (items - 1)``. Each layer's neighbours are found once;
layers are then compared through their lists of neighbours, so nothing is items x items, and
the lists serve any pair, any smaller k, bootstrap or null.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from rectify.runtime import generator as drawn_by
from rectify.similarity.features import (
    Features,
    Layers,
    as_pair,
    as_sides,
    as_tensor,
    check_k,
    precise,
)
from rectify.similarity.neighbours import neighbours

CHUNK_ENTRIES = 2**24  # of a table (items, items, layers), 64 MiB in fp32
LEVEL = 0.05  # of the share of unrelated models whose gated score may lie above 0
LEAST_PERMUTATIONS = 19  # with fewer no p value is as small
SCOPES = ("global", "per_layer", "per_sample")


def mutual_knn(left: Features, right: Features, k: SupportsIndex) -> float:
    """Return the mean share of the ``k`` neighbours that both spaces have in common.

    Args:
        left: One vector per item ``(items, dim)``: a tensor, an array or a list of vectors, of
            any real type; scaled to unit length here.
        right: Features of the same items, in the same order, from another model; the width may
            differ.
        k: Neighbours per item; an item is never its own neighbour.

    Raises:
        ValueError: If a shape is another one, the numbers of items differ, a feature is not
            finite, ``k`` is not in ``1 .. items - 1``, or a side is collapsed: equal cosines of
            all pairs of items have no order.

    Example:
        >>> circle = [[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [-0.5, 0.9]]
        >>> mutual_knn(circle, circle, k=2)
        1.0
        >>> mutual_knn(circle, circle[::-1], k=1)
        1.0
        >>> mutual_knn(circle, [circle[item] for item in (0, 2, 1, 3)], k=1)
        0.0
    """
    one, other = as_pair(left, right, "mutual_knn")
    k = check_k(len(one), k, "mutual_knn")
    return shared_neighbours([neighbours(one, k)], [neighbours(other, k)]).item()


def mutual_knn_matrix(
    lefts: Layers, rights: Layers, k: SupportsIndex
) -> Float[Tensor, "lefts rights"]:
    """Return ``mutual_knn`` of every pair of layers; each layer is searched once.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model: a list, whose widths may
            differ, or a tensor or an array ``(layers, items, dim)``.
        rights: Features of the same items from each layer of another.
        k: Neighbours per item.

    Raises:
        ValueError: As ``mutual_knn``.

    Example:
        >>> circle = [[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [-0.5, 0.9]]
        >>> other = [circle[item] for item in (0, 2, 1, 3)]
        >>> mutual_knn_matrix([circle, other], [circle], k=1).tolist()
        [[1.0], [0.0]]
    """
    left, right = as_sides(lefts, rights, "mutual_knn_matrix")
    k = check_k(len(left[0]), k, "mutual_knn_matrix")
    return shared_neighbours(
        [neighbours(layer, k) for layer in left], [neighbours(layer, k) for layer in right]
    )


def shared_neighbours(
    lefts: Sequence[Int[Tensor, "items_left k_left"]],
    rights: Sequence[Int[Tensor, "items_right k_right"]],
) -> Float[Tensor, "lefts rights"]:
    """Return the mean share of common neighbours of each pair of lists from ``neighbours``.

    Raises:
        ValueError: If the lists differ in items or k.
    """
    counts = _counts(_columns(lefts, rights), _columns(rights, lefts))
    return counts.double() / lefts[0].numel()


class Calibration(NamedTuple):
    """How scores compare with those of permuted items, for each pair of layers.

    Attributes:
        score: ``max(0, (s - tau) / (1 - tau))``: 0 where not above the largest score that a search
            over all pairs finds by chance, 1 for identical neighbours. Its maximum is the gated
            score of the two models.
        p: The share of the permutations, and the data themselves, that score at least as high.
        p_maximum: The same share of the largest score over all pairs. The score is above 0 exactly
            where this is at most ``LEVEL``; its minimum is the p value of the two models.
    """

    score: Float[Tensor, "lefts rights"]
    p: Float[Tensor, "lefts rights"]
    p_maximum: Float[Tensor, "lefts rights"]


def calibrated(
    lefts: Layers, rights: Layers, k: SupportsIndex, permutations: int = 1000, seed: int = 0
) -> Calibration:
    """Return how the Mutual-KNN of every pair of layers compares with that of permuted items.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model, as ``mutual_knn_matrix`` takes
            them; of a single layer a list of it.
        rights: Features of the same items from each layer of another.
        k: Neighbours per item.
        permutations: How often the items of ``rights`` are permuted, the same way for all pairs.
        seed: Of the permutations; those of ``rectify similarity`` have 0.

    Raises:
        ValueError: As ``mutual_knn``, if there are too few permutations, or if ``k`` is all other
            items, which always agree.

    Example:
        >>> import numpy as np
        >>> draws = np.random.default_rng(0)
        >>> shared = draws.normal(size=(60, 8))
        >>> alike, unrelated = shared + 0.1 * draws.normal(size=(60, 8)), draws.normal(size=(60, 8))
        >>> found = calibrated([shared], [alike, unrelated], k=5, permutations=99)
        >>> bool(found.score[0, 0] > 0.5), found.score[0, 1].item()
        (True, 0.0)
    """
    left, right = as_sides(lefts, rights, "calibrated")
    k = check_k(len(left[0]), k, "calibrated")
    lists = [[neighbours(layer, k) for layer in side] for side in (left, right)]
    return calibrated_matrix(*lists, permutations, drawn_by(seed, "permutations"))


def calibrated_matrix(
    lefts: Sequence[Int[Tensor, "items_left k_left"]],
    rights: Sequence[Int[Tensor, "items_right k_right"]],
    permutations: int,
    generator: torch.Generator,
) -> Calibration:
    """Compare scores with those of permuted items, and of the search over layers (Groeger et al.).

    One permutation is the same for all pairs; its largest score is a draw of what the best pair of
    two unrelated models scores. ``tau`` is the 95 % quantile of these draws: the smallest score
    that, as an observed one, would have a p value (Phipson and Smyth, 2010) above 0.05.

    Args:
        lefts: Lists from ``neighbours``, one per layer.
        rights: Lists of the same items from another model.
        permutations: How often the items of ``rights`` are permuted, the same way for all pairs.
        generator: A CPU generator that draws the permutations.

    Raises:
        ValueError: If there are too few permutations, the lists differ in items or k, or hold all
            items.
    """
    if permutations < LEAST_PERMUTATIONS:
        raise ValueError(
            f"calibrated: permutations must be at least {LEAST_PERMUTATIONS}, for a p value of "
            f"{LEVEL}, got {permutations}. Raise permutations."
        )
    given = next((one for one in (*lefts, *rights) if one.is_floating_point()), None)
    if given is not None:
        raise ValueError(
            f"calibrated_matrix: both sides must be lists of neighbours, got {given.dtype}. Give "
            "features to calibrated."
        )
    items, k = lefts[0].shape
    if k >= items - 1:
        raise ValueError(
            f"calibrated: k must lie below {items - 1}, since all other items always agree, got "
            f"{k}. Lower k, or use more items."
        )
    possible = lefts[0].numel()
    observed = _counts(_columns(lefts, rights), _columns(rights, lefts)).double()
    orders = [torch.randperm(items, generator=generator) for _ in range(permutations)]
    counts = _permuted_counts(torch.stack(list(lefts)), torch.stack(list(rights)), orders)
    largest = counts.flatten(1).amax(1)
    above = math.floor(LEVEL * (permutations + 1) + 1e-9)  # draws and data that may lie above
    tau = largest.sort(descending=True).values[above - 1] / possible
    return Calibration(
        ((observed / possible - tau) / (1 - tau)).clamp(min=0),
        _p_values(counts, observed),
        _p_values(largest[:, None, None], observed),
    )


def _p_values(null: Tensor, observed: Tensor) -> Tensor:
    """Return the share of a null's draws (its first dimension) and the data that are as high."""
    return ((null >= observed).sum(0) + 1).double() / (len(null) + 1)


def chance_level(k: SupportsIndex, items: int) -> float:
    """Return the expected ``mutual_knn`` of unrelated spaces, the mean over all permutations.

    Example:
        >>> round(chance_level(10, 1024), 6)
        0.009775
    """
    return check_k(items, k, "chance_level") / (items - 1)


def clamp_outliers(
    layers: Layers,
    quantile: float = 0.95,
    scope: str = "global",
) -> list[Tensor]:
    """Clamp features to plus or minus a quantile of their absolute values (Huh et al., 2024).

    Args:
        layers: Features ``(items, dim)`` of each layer of one model.
        quantile: In 0 .. 1; the threshold is ``sorted(|values|)[int(quantile * numel)]``, and
            1 changes nothing.
        scope: ``global``: one threshold over all layers, as published; ``per_layer``: one each;
            ``per_sample``: one over all layers, the mean over items of the interpolated quantile
            of an item's values in all layers, as the published command line has it.

    Raises:
        ValueError: If quantile or scope is none of these.

    Example:
        >>> clamp_outliers([[[1.0, -2.0], [3.0, -100.0]]], quantile=0.5)[0].tolist()
        [[1.0, -2.0], [3.0, -3.0]]
    """
    if not 0 < quantile <= 1 or scope not in SCOPES:
        raise ValueError(
            f"clamp_outliers: quantile must lie in 0..1 and scope be {', '.join(SCOPES)}, got "
            f"{quantile} and {scope!r}. Change quantile or scope."
        )
    layers = [precise(as_tensor(layer)) for layer in layers]
    if quantile == 1:
        return layers
    magnitude = _magnitude_of_items if scope == "per_sample" else _magnitude
    groups = [[layer] for layer in layers] if scope == "per_layer" else [layers]
    return [
        layer.clamp(-threshold, threshold)
        for group in groups
        for threshold in [magnitude(group, quantile)]
        for layer in group
    ]


def _counts(lefts: Tensor, rights: Tensor) -> Tensor:
    """Count equal neighbours of every pair; items come last so that the comparison is fast."""
    k, length = lefts.shape[1:]
    chunk = max(1, CHUNK_ENTRIES // (k * k))
    counts = torch.zeros(len(lefts), len(rights), dtype=torch.int64, device=lefts.device)
    for i, left in enumerate(lefts):
        for j, right in enumerate(rights):
            for start in range(0, length, chunk):
                items = slice(start, start + chunk)
                counts[i, j] += (left[:, None, items] == right[None, :, items]).count_nonzero()
    return counts


def _permuted_counts(lefts: Tensor, rights: Tensor, orders: list[Tensor]) -> Tensor:
    """Count equal neighbours of every pair for each order of the items of ``rights``.

    For a chunk of items at a time, a table says of each (item, neighbour) which left layers
    have it; the rows for all right layers' neighbours are then summed, in any order.

    Args:
        lefts: Lists (lefts, items, k).
        rights: Lists (rights, items, k).
        orders: Permutations of the items.

    Returns:
        Counts (orders, lefts, rights).
    """
    layers, items = lefts.shape[:2]
    orders = torch.stack(orders).to(lefts.device)
    indices = orders.argsort(1)  # the new index of each item
    rights = rights.long()
    counts = torch.zeros(len(orders), len(rights), layers, dtype=torch.float64, device=lefts.device)
    size = max(1, CHUNK_ENTRIES // (items * layers))
    for chunk in torch.arange(items, device=lefts.device).split(size):
        table = torch.zeros(len(chunk), items, layers, device=lefts.device)
        table.scatter_(1, lefts[:, chunk].permute(1, 2, 0).long(), 1.0)  # (chunk, items, layers)
        first = items * torch.arange(len(chunk), device=lefts.device)[:, None]
        for count, order, index in zip(counts, orders, indices, strict=True):
            rows = (index[rights[:, order[chunk]]] + first).flatten(1)  # (rights, chunk * k)
            count += embedding_bag(rows, table.flatten(0, 1), mode="sum")
    return counts.mT


def _columns(lists: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Return lists of neighbours as (layers, k, items), if they fit to each other."""
    shapes = {tuple(indices.shape) for indices in (*lists, *others)}
    if len(shapes) != 1:
        raise ValueError(
            "mutual_knn: both sides must have the same items and k, got (items, k) "
            f"{sorted(shapes)}. Compare features of the same items, in the same order."
        )
    return torch.stack([indices.T.contiguous() for indices in lists])


def _magnitude(group: list[Tensor], quantile: float) -> Tensor:
    values = torch.cat([layer.abs().flatten() for layer in group])
    return values.kthvalue(int(quantile * len(values)) + 1).values


def _magnitude_of_items(group: list[Tensor], quantile: float) -> Tensor:
    rows = (torch.cat([layer[item].abs() for layer in group]) for item in range(len(group[0])))
    return torch.stack([row.quantile(quantile) for row in rows]).mean()
