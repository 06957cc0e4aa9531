"""Exact nearest neighbours by cosine, the same on every device.

Cosines come from one matrix product in the features' own precision, at least fp32. Where two of
them are so near that rounding could decide, a few are formed again in fp64. So the lists are those
of fp64 at the cost of fp32, and equal items are taken in order of their index.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import SupportsIndex

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import normalize, pad

from rectify.similarity.features import (
    STRIPE_ENTRIES,
    Features,
    as_features,
    check_k,
    exact_cosines,
)

CHUNK_ENTRIES = 2**24  # of a matrix (rows, items), 64 MiB in fp32
LEAST_ROWS = 64  # of a part of a symmetric product: products of fewer are slower
ROUNDING = 64  # units of the last place by which two rounded cosines may differ, or lie apart
TIE = 1e-13  # cosines that agree so far are equal
CROWDED = 0.5  # mean cosine from which on u - m is formed in fp64
MEAN_ITEMS = 128  # of whom the mean is taken: it need not be that of all
LEAST_LENGTH = 1e-12  # of a feature that is scaled to 1, as in ``normalize``
UNDECIDED = 0.05  # of the items: so many ties may be on both sides


def neighbours(
    features: Features, k: SupportsIndex, chunk: int | None = None
) -> Int[Tensor, "items k"]:
    """Return each item's ``k`` nearest other items by cosine similarity, nearest first.

    The first columns are the lists for a smaller k. Products are formed in fp32, or in fp64 from
    fp64 features; rows where their rounding could decide are settled in fp64, so the result is
    that of fp64 and does not depend on ``chunk``, the device or the number of threads. Among
    cosines that agree to 13 digits (repeated items) the lower index is nearer.

    Memory besides the features: one copy of them in the product's precision, and some 200 MiB.

    Args:
        features: One vector per item ``(items, dim)``: a tensor, an array or a list of vectors,
            of any real type.
        k: Neighbours per item.
        chunk: Items at a time; by default as many as 64 MiB allow.

    Raises:
        ValueError: If the shape is another one, a feature is not finite, or ``k`` is not in
            ``1 .. items - 1``.

    Example:
        >>> neighbours([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], k=1).tolist()
        [[1], [0], [1]]
    """
    features = as_features(features, "neighbours", "features", may_collapse=True)
    k = check_k(len(features), k, "neighbours")
    return _neighbours(features, k, k, chunk)[0]


def decided_neighbours(
    lefts: Sequence[Tensor], rights: Sequence[Tensor], k: int, reach: int, where: str
) -> tuple[list[Int[Tensor, "items_left reach"]], list[Int[Tensor, "items_right reach"]]]:
    """Return the ``neighbours`` of both sides, of whom the features and not their order decide.

    They are nearest first where ``reach`` is above ``k``, and else in any order.

    Where the k-th and the next are equally near, the lower index is taken: on both sides, so that
    spaces agree that have nothing in common. Copies of items make such ties, and features of few
    different values. Ties of one side alone do no harm: the other side knows no index.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model, from ``as_sides``.
        rights: Features of the same items from each layer of another.
        k: Neighbours that are compared.
        reach: Length of the lists.
        where: Function that was called, for messages.

    Raises:
        ValueError: If more than a few items have such ties on both sides.
    """
    left, right = (
        [_neighbours(one, reach, k, in_order=reach > k) for one in side] for side in (lefts, rights)
    )
    items = len(lefts[0])
    for i, (_, tied) in enumerate(left):
        for j, (_, also) in enumerate(right):
            both = int((tied & also.to(tied.device)).sum())
            if both > UNDECIDED * items:
                raise ValueError(
                    f"{where}: features must tell neighbours apart, got {both} of {items} items "
                    f"whose neighbours {k} and {k + 1} are equally near on both sides (layers {i} "
                    f"and {j}). Leave out copies of items, or layers of few different features."
                )
    return [lists for lists, _ in left], [lists for lists, _ in right]


def _neighbours(
    features: Tensor, k: int, at: int, chunk: int | None = None, *, in_order: bool = True
) -> tuple[Int[Tensor, "items k"], Bool[Tensor, " items"]]:
    """Return lists of neighbours, and for which items those at ``at`` and behind it tie."""
    items = len(features)
    with _full_precision(features.device):
        centred, length, shift = _centred(features)
        reach = length.max() * length.clamp(min=length.max() / 32)  # bounds products and shift
        doubt = ROUNDING * torch.finfo(centred.dtype).eps * reach + 2 * TIE
        chunk = chunk or max(1, CHUNK_ENTRIES // items)
        search = partial(_nearest, features, centred, shift, doubt, k=k, at=at, in_order=in_order)
        nearest = [
            search(range(start, min(start + chunk, items))) for start in range(0, items, chunk)
        ]
    lists, tied = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    return lists.int(), tied


def _centred(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the unit vectors u less the mean m of some, their lengths, and (u^2 - (u - m)^2) / 2.

    ``u_i u_j`` is ``(u_i - m) (u_j - m) + (u_j^2 - (u_j - m)^2) / 2`` and a constant of row i, for
    any m. Features of language models crowd around one direction; less that, fp32 resolves what
    tells them apart, if the difference is formed in fp64. Where they do not crowd, rounding u is
    no more than rounding the product.
    """
    some = features[:: max(1, len(features) // MEAN_ITEMS)]
    mean = normalize(some.double()).mean(0)
    if mean.square().sum() < CROWDED:
        less = _less(features, mean.to(torch.promote_types(features.dtype, torch.float32)))
        if not less[-1].isnan().any():
            return less
    return _less(features, mean)


def _less(features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Form what ``_centred`` returns in the precision of ``mean``; NaN where that holds no length.

    A constant 1/2 is left out, so that a length of 1 adds nothing.
    """
    centred = torch.empty_like(features, dtype=torch.promote_types(features.dtype, torch.float32))
    length, shift = (torch.empty_like(centred[:, 0]) for _ in range(2))
    stripe = max(1, STRIPE_ENTRIES // features.shape[1])
    for start in range(0, len(features), stripe):
        rows = slice(start, start + stripe)
        wide = features[rows].to(mean.dtype)
        own = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        rest = torch.addcmul(-mean, wide, own.clamp(min=LEAST_LENGTH).reciprocal_())
        square, own = rest.square().sum(1), own[:, 0]
        shorter = (own / LEAST_LENGTH).clamp(max=1).square() - 1 + 0 * own
        centred[rows], length[rows], shift[rows] = rest, square.sqrt(), (shorter - square) / 2
    return centred, length, shift


def _nearest(
    features: Tensor,
    centred: Tensor,
    shift: Tensor,
    doubt: Tensor,
    chunk: range,
    *,
    k: int,
    at: int,
    in_order: bool,
) -> tuple[Tensor, Tensor]:
    """Return neighbours and ties of a chunk; two cosines less than ``doubt`` apart may tie."""
    rows = torch.arange(chunk.start, chunk.stop, device=centred.device)
    cosine = _products(centred, chunk.start, chunk.stop).add_(shift)  # (rows, items)
    cosine.scatter_(1, rows[:, None], -torch.inf)
    values, nearest = cosine.topk(k + 1)
    least = values[:, k - 1] - doubt[rows]
    gaps = values.diff(dim=1)[:, 0 if in_order else k - 1 :]
    unsure = (gaps > -doubt[rows, None]).any(1).nonzero()[:, 0]
    tied = torch.zeros_like(rows, dtype=torch.bool)
    step = max(1, CHUNK_ENTRIES // 8 // len(features))
    for start in range(0, len(unsure), step):
        again = unsure[start : start + step]
        near = cosine[again] >= least[again, None]
        nearest[again, :k], tied[again] = _settled(features, rows[again], near, k, at)
    return nearest[:, :k], tied


def _products(centred: Tensor, start: int, stop: int) -> Tensor:
    """Return ``centred[start:stop] @ centred.T``, by half of it where all of it is asked for."""
    items = len(centred)
    if stop - start < items:
        return centred[start:stop] @ centred.T
    products = centred.new_empty(items, items)
    _fill(centred, products)
    return products


def _fill(centred: Tensor, products: Tensor) -> None:
    """Write ``centred @ centred.T`` into ``products``: what is below the diagonal is copied."""
    items, half = len(centred), len(centred) // 2
    if items < 2 * LEAST_ROWS:
        torch.mm(centred, centred.T, out=products)
        return
    _fill(centred[:half], products[:half, :half])
    _fill(centred[half:], products[half:, half:])
    torch.mm(centred[:half], centred[half:].T, out=products[:half, half:])
    products[half:, :half] = products[:half, half:].T


def _settled(
    features: Tensor, rows: Tensor, near: Tensor, k: int, at: int
) -> tuple[Tensor, Tensor]:
    """Order the ``near`` items (rows, items) by fp64 cosines, and equal ones by their index."""
    items = near.any(0).nonzero()[:, 0]
    cosine = exact_cosines(features, rows, items).masked_fill_(~near[:, items], -torch.inf)
    cosine, order = cosine.sort(descending=True)
    rank = (cosine.diff(dim=1) < -TIE).cumsum(1)  # the same for equal cosines
    rank = pad(rank, (1, 0))
    behind = min(at, len(items) - 1)  # nobody is behind the last
    tied = (rank[:, at - 1] == rank[:, behind]) & (behind == at)
    rank.mul_(len(items)).add_(order)
    return items[rank.sort().values[:, :k] % len(items)], tied


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Multiply in fp32 proper: neither TF32 nor an outer autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
