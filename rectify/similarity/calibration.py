"""How Mutual-KNN compares with what permuted items score: the null of unrelated models."""

import math
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from rectify.runtime import generator as generator_of
from rectify.similarity.features import Layers, as_sides, check_k
from rectify.similarity.neighbours import decided_neighbours
from rectify.similarity.scores import common_neighbours

CHUNK_ENTRIES = 2**24  # of a table (items, items, layers), 64 MiB in fp32
LEVEL = 0.05  # of the share of unrelated models whose gated score may lie above 0
LEAST_PERMUTATIONS = 19  # with fewer no p value is as small


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
    lists = decided_neighbours(left, right, k, k, "calibrated")
    return calibrated_matrix(*lists, permutations, generator_of(seed, "permutations"))


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
    observed = common_neighbours(lefts, rights).double()
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
