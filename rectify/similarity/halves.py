"""Standard errors over items, from random halves of them; sums over common neighbours.

Other items would not only be other terms of a mean: they would be other neighbours. A bootstrap
over each item's own share of common neighbours leaves that out and is too narrow. Two halves of
the items are two samples that share nothing, each with its own neighbours. A score of half the
items has twice the variance, and the difference of two halves four times that of the score of all;
so a quarter of the squared difference, averaged over random splits, estimates it. Near chance it
is somewhat large, since the level of chance is that of half the items.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

SPLITS = 20
REACH = 3  # lists of so many times k neighbours hold the k nearest of a half for 98 % of items
CHUNK_ENTRIES = 2**24  # of a table (items, items), 64 MiB in fp32


def random_halves(
    items: int, generator: torch.Generator, splits: int = SPLITS
) -> Bool[Tensor, "splits items"]:
    """Return which items are in the first half of each split.

    Args:
        items: How many there are; of an odd number the second half has one more.
        generator: A CPU generator that draws the splits.
        splits: How many.
    """
    orders = torch.stack([torch.randperm(items, generator=generator) for _ in range(splits)])
    return orders < items // 2


def reach(k: int, items: int) -> int:
    """Return how long lists of neighbours are from which those within halves are taken."""
    return min(REACH * k, items - 1)


def within(
    lists: Int[Tensor, "layers items reach"], half: Bool[Tensor, " items"], k: int
) -> tuple[Int[Tensor, "layers items k"], Int[Tensor, "layers items k"]]:
    """Return each item's ``k`` nearest in its own half: their places in its list, and who they are.

    Where a list holds fewer, the place behind its end and the number of items, which is nobody,
    fill the rest.
    """
    layers, items, length = lists.shape
    near = pad(lists, (0, 1), value=items).long()
    same = half[lists.long()] == half[:, None]
    rank = same.cumsum(2)
    slots = (rank - 1).masked_fill_(~same | (rank > k), k)
    places = torch.full((layers, items, k + 1), length)
    places.scatter_(2, slots, torch.arange(length).expand_as(slots))
    return places[..., :k], near.gather(2, places[..., :k])


def common_sums(
    lefts: Int[Tensor, "lefts items k"],
    rights: Int[Tensor, "rights items k"],
    left_weights: Float[Tensor, "lefts items k"] | None = None,
    right_weights: Float[Tensor, "rights items k"] | None = None,
) -> Float[Tensor, "lefts rights items"]:
    """Return each item's sum over common neighbours of the product of both sides' weights.

    Weights are fp32; without them it is the number of common neighbours. The neighbour whose index
    is the number of items is nobody, and common to none.
    """
    layers, items, k = lefts.shape
    sums = torch.empty(layers, len(rights), items)
    size = max(1, CHUNK_ENTRIES // (items + 1))
    for chunk in torch.arange(items).split(size):
        asked = rights[:, chunk].transpose(0, 1).reshape(len(chunk), -1).long()
        table = torch.zeros(len(chunk), items + 1)
        for layer in range(layers):
            near = lefts[layer, chunk].long()
            weights = 1.0 if left_weights is None else left_weights[layer, chunk]
            table.scatter_(1, near, weights)
            table[:, items] = 0
            found = table.gather(1, asked).view(len(chunk), len(rights), k)
            if right_weights is not None:
                found *= right_weights[:, chunk].transpose(0, 1)
            sums[layer, :, chunk] = found.sum(2).T
            table.scatter_(1, near, 0.0)
    return sums


def mutual_knn_error(
    lefts: Sequence[Int[Tensor, "items_left reach_left"]],
    rights: Sequence[Int[Tensor, "items_right reach_right"]],
    k: int,
    halves: Bool[Tensor, "splits items"],
) -> Float[Tensor, "lefts rights"]:
    """Return the standard error of Mutual-KNN of each pair of layers, over items.

    Args:
        lefts: Lists from ``neighbours`` with ``reach`` columns, one per layer.
        rights: Lists of the same items from another model.
        k: Neighbours that are compared.
        halves: From ``random_halves``.
    """
    left, right = torch.stack(list(lefts)), torch.stack(list(rights))
    differences = []
    for half in halves:
        (_, near), (_, also) = within(left, half, k), within(right, half, k)
        counts = common_sums(near, also).double()
        first, second = (counts[..., part].mean(2) / k for part in (half, ~half))
        differences.append(first - second)
    return standard_error(differences)


def standard_error(differences: Sequence[Float[Tensor, "*shape"]]) -> Float[Tensor, "*shape"]:
    """Return the standard error of a score from the differences between halves."""
    return torch.stack(list(differences)).square().mean(0).sqrt() / 2
