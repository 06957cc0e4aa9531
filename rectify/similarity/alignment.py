"""Similarity of two feature spaces by the alignment of their kernels: unbiased CKA, and CKNNA.

Both compare cosines of all pairs of items: CKA all of them, CKNNA those of items that are
neighbours in both spaces. 1 for equal spaces, around 0 (also below) for unrelated ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, SupportsIndex

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize, pad

from rectify.similarity.features import Features, as_pair, check_k
from rectify.similarity.halves import common_sums, standard_error, within
from rectify.similarity.neighbours import TIE, decided_neighbours

CHUNK_ENTRIES = 2**24  # of kernels (layers, items, items), 64 MiB in fp32
STRIPE_ENTRIES = 2**20  # of the neighbours' features, 4 MiB: they stay in the cache


class Estimate(NamedTuple):
    """A score of each pair of layers, and its standard error over items.

    NaN where the kernel of a side is constant, so that nothing can be aligned.
    """

    score: Float[Tensor, "lefts rights"]
    error: Float[Tensor, "lefts rights"]


def unbiased_cka(left: Features, right: Features) -> float:
    """Return centred kernel alignment by the unbiased HSIC (Song et al., 2012), cosine kernel.

    Args:
        left: One vector per item ``(items, dim)``: a tensor, an array or a list of vectors, of
            any real type.
        right: Features of the same items, in the same order, from another model.

    Raises:
        ValueError: If a shape is another one, there are fewer than 4 items, their numbers differ,
            a feature is not finite, or a side is collapsed: its centred kernel is 0.

    Example:
        >>> space = [[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [-0.5, 0.9], [0.3, -1.0]]
        >>> round(unbiased_cka(space, [[2 * y, 2 * x] for x, y in space]), 6)
        1.0
    """
    one, other = as_pair(left, right, "unbiased_cka")
    return _single("unbiased_cka", cka_matrix([one], [other]))


def cka_matrix(lefts: Sequence[Tensor], rights: Sequence[Tensor]) -> Estimate:
    """Return ``unbiased_cka`` of every pair of layers, with its standard error over items.

    The unbiased HSIC is the mean product of two kernels whose rows, columns and diagonal are
    centred as in Székely and Rizzo (2014). Its influence function at an item is twice what the
    item's row has above the mean, since the centring changes nothing to first order; that of CKA
    follows by the chain rule, and the error is its root mean square over the root of the number of
    items (the infinitesimal jackknife).

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model, from ``as_sides``.
        rights: Features of the same items from each layer of another.

    Raises:
        ValueError: If there are fewer than 4 items.
    """
    items = len(lefts[0])
    if items < 4:
        raise ValueError(f"unbiased_cka: at least 4 items are needed, got {items}. Use more.")
    left, right = ([_unit(layer)[1] for layer in side] for side in (lefts, rights))
    both, own, other = (torch.cat(parts) for parts in zip(*_products(left, right), strict=True))
    size, also = _sizes(own.mean(0)), _sizes(other.mean(0))  # (lefts), (rights)
    scale = (size[:, None] * also).sqrt()
    score = both.mean(0) / scale
    shares = (own / size)[:, :, None] + (other / also)[:, None]
    influence = 2 * (both / scale - score * shares / 2)
    return Estimate(score, (influence.square().mean(0) / items).sqrt())


def cknna(left: Features, right: Features, k: SupportsIndex) -> float:
    """Return the kernel alignment over common neighbours (CKNNA, Huh et al., 2024).

    Cosines, less their mean over all items of the row, are multiplied and summed over the pairs
    that are neighbours in both spaces, and divided by the same sums of each space with itself.
    This is the formula of the paper; their code puts the masked kernels through the unbiased
    HSIC instead.

    Args:
        left: One vector per item ``(items, dim)``: a tensor, an array or a list of vectors, of
            any real type.
        right: Features of the same items, in the same order, from another model.
        k: Neighbours per item; an item is never its own neighbour.

    Raises:
        ValueError: As ``mutual_knn``.

    Example:
        >>> space = [[1.0, 0.0], [0.9, 0.4], [0.0, 1.0], [-0.5, 0.9], [0.3, -1.0]]
        >>> round(cknna(space, [[2 * y, 2 * x] for x, y in space], k=2), 6)
        1.0
    """
    sides = [[one] for one in as_pair(left, right, "cknna")]
    k = check_k(len(sides[0][0]), k, "cknna")
    lists = decided_neighbours(*sides, k, k, "cknna")
    return _single("cknna", cknna_matrix(*sides, *lists, k))


def cknna_matrix(
    lefts: Sequence[Tensor],
    rights: Sequence[Tensor],
    left_lists: Sequence[Int[Tensor, "items_left reach_left"]],
    right_lists: Sequence[Int[Tensor, "items_right reach_right"]],
    k: int,
    halves: Bool[Tensor, "splits items"] | None = None,
) -> Estimate:
    """Return ``cknna`` of every pair of layers, with its standard error over items.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model, from ``as_sides``.
        rights: Features of the same items from each layer of another.
        left_lists: Their lists from ``neighbours``, of at least ``k``; for the error, of
            ``halves.reach``.
        right_lists: Likewise.
        k: Neighbours per item.
        halves: From ``random_halves``; without, the error is NaN.
    """
    left, right = _Side(lefts, left_lists, k), _Side(rights, right_lists, k)
    everybody = torch.ones(left.lists.shape[1], dtype=torch.bool)
    (score,) = _alignments(left, right, everybody)
    if halves is None:
        return Estimate(score, torch.full_like(score, torch.nan))
    pairs = [tuple(_alignments(left, right, half)) for half in halves]
    return Estimate(score, standard_error([first - second for first, second in pairs]))


class _Side:
    """The layers of one model: unit vectors, lists of neighbours, and the cosines with them.

    Cosines are less the mean cosine of their row.
    """

    def __init__(self, layers: Sequence[Tensor], lists: Sequence[Tensor], k: int):
        self.k, self.lists = k, torch.stack(list(lists))
        self.units = [_unit(layer) for layer in layers]
        pairs = zip(self.units, self.lists, strict=True)
        self.cosines = torch.stack([_cosines(*unit, near) for unit, near in pairs])

    def within(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """Return neighbours within halves, and their cosines less the mean of the row's half."""
        places, near = within(self.lists, half, self.k)
        parts = torch.stack([half, ~half]).float()
        parts /= parts.sum(1, keepdim=True).clamp(min=1)
        means = torch.stack([unit @ (parts @ rest).T for unit, rest in self.units])
        cosines = pad(self.cosines, (0, 1)).gather(2, places)
        cosines -= torch.where(half, means[..., 0], means[..., 1])[..., None]
        return near, cosines.masked_fill_(near == len(half), 0)


def _alignments(left: _Side, right: _Side, half: Tensor) -> Iterator[Tensor]:
    """Give the alignment of each pair of layers over each part of a split that has items."""
    (near, cosines), (also, others) = left.within(half), right.within(half)
    both = common_sums(near, also, cosines, others).double()
    own, other = (side.double().square().mean(2) for side in (cosines, others))
    for part in (half, ~half):
        if part.any():
            sizes = _sizes(own[:, part].mean(1))[:, None] * _sizes(other[:, part].mean(1))
            yield both[..., part].mean(2) / left.k / sizes.sqrt()


def _sizes(squares: Tensor) -> Tensor:
    """Return mean squares of a kernel's entries; NaN where it is constant but for rounding."""
    return squares.masked_fill(squares <= TIE**2, torch.nan)


def _products(lefts: list[Tensor], rights: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Give products of centred kernels by item, whose means over items are the unbiased HSIC.

    For a chunk of items: of each pair (items, lefts, rights), of each left layer with itself
    (items, lefts), and of each right layer.
    """
    items = len(lefts[0])
    margins = [_margins(unit) for unit in (*lefts, *rights)]
    size = max(1, CHUNK_ENTRIES // (items * len(margins)))
    for chunk in torch.arange(items).split(size):
        rows = torch.stack(
            [
                (unit[chunk] @ unit.T).sub_(margin[chunk, None]).sub_(margin)
                for unit, margin in zip((*lefts, *rights), margins, strict=True)
            ],
            dim=1,
        )  # (chunk, layers, items)
        rows[torch.arange(len(chunk)), :, chunk] = 0
        left, right = rows[:, : len(lefts)], rows[:, len(lefts) :]
        products = left @ right.mT, left.square().sum(2), right.square().sum(2)
        yield tuple(product.double() / (items - 3) for product in products)


def _margins(unit: Tensor) -> Tensor:
    """Return what centring takes from each entry for its row, and again for its column.

    The kernel of unit vectors and that of what they are less their mean are the same once they
    are centred; the latter has no large parts that cancel.
    """
    items = len(unit)
    rows = unit @ unit.sum(0) - unit.square().sum(1)  # without the diagonal
    return rows / (items - 2) - rows.sum() / (2 * (items - 1) * (items - 2))


def _cosines(unit: Tensor, rest: Tensor, near: Tensor) -> Tensor:
    """Return the cosines (items, k) of each item with its neighbours, less those with all."""
    size = max(1, STRIPE_ENTRIES // (near.shape[1] * unit.shape[1]))
    parts = zip(unit.split(size), near.long().split(size), strict=True)
    return torch.cat([(rest[indices] @ item[:, :, None])[..., 0] for item, indices in parts])


def _unit(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors, and what they are less their mean: rounded to fp32 only then."""
    unit = normalize(features.double())
    return unit.float(), (unit - unit.mean(0)).float()


def _single(where: str, estimate: Estimate) -> float:
    value = estimate.score.item()
    if value != value:
        raise ValueError(
            f"{where}: the centred kernels of both sides must not be 0, got one that is. Leave the "
            "layer out."
        )
    return value
