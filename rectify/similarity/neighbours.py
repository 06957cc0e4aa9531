"""Exact nearest neighbours by cosine, the same on every device.

Cosines come from one matrix product in the features' own precision, at least fp32. Where two of
them are so near that rounding could decide, a few are formed again in fp64. So the lists are those
of fp64 at the cost of fp32, and equal items are taken in order of their index.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize, pad

Array = Tensor | np.ndarray

CHUNK_ENTRIES = 2**24  # of a matrix (rows, items), 64 MiB in fp32
STRIPE_ENTRIES = 2**18  # of features in fp64, 2 MiB: they stay in the cache
ROUNDING = 64  # units of the last place by which two rounded cosines may differ, or lie apart
TIE = 1e-13  # cosines that agree so far are equal


def neighbours(
    features: Float[Array, "items dim"], k: int, chunk: int | None = None
) -> Int[Tensor, "items k"]:
    """Return each item's ``k`` nearest other items by cosine similarity, nearest first.

    The first columns are the lists for a smaller k. Products are formed in fp32, or in fp64 from
    fp64 features; rows where their rounding could decide are settled in fp64, so the result is
    that of fp64 and does not depend on ``chunk``, the device or the number of threads. Among
    cosines that agree to 13 digits (repeated items) the lower index is nearer.

    Memory besides the features: one copy of them in the product's precision, and some 200 MiB.

    Args:
        features: One vector per item, in any floating type; a tensor or a NumPy array.
        k: Neighbours per item.
        chunk: Items at a time; by default as many as 64 MiB allow.

    Raises:
        ValueError: If ``k`` is not in ``1 .. items - 1`` or a feature is not finite.
    """
    features = as_tensor(features)
    items = len(features)
    check_k(items, k)
    with _full_precision(features.device):
        centred, shift = _centred(features)
        length = torch.linalg.vector_norm(centred, dim=1)
        reach = length.max() * length.clamp(min=length.max() / 100)  # bounds products and shift
        doubt = ROUNDING * torch.finfo(centred.dtype).eps * reach + 2 * TIE
        chunk = chunk or max(1, CHUNK_ENTRIES // items)
        nearest = [
            _nearest(features, centred, shift, doubt, range(start, min(start + chunk, items)), k)
            for start in range(0, items, chunk)
        ]
    return torch.cat(nearest).int()


def as_tensor(features: Array) -> Tensor:
    """Return features as a tensor, which shares the memory of a NumPy array where it can."""
    if isinstance(features, np.ndarray):
        features = np.ascontiguousarray(features)  # torch has no negative strides
        features = features if features.flags.writeable else features.copy()
    return torch.as_tensor(features)


def precise(features: Tensor) -> Tensor:
    """Return features in fp32, or in their own precision if it is higher."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def check_k(items: int, k: int) -> None:
    """Raise ``ValueError`` if not every item has ``k`` others."""
    if not 1 <= k < items:
        raise ValueError(
            f"mutual_knn: k must lie in 1..{items - 1} for {items} items, got {k}. "
            "Lower similarity.k in config.yaml, or use more items."
        )


def check_finite(values: Tensor) -> None:
    """Raise ``ValueError`` if features, or what was summed from them, are not finite."""
    if not values.isfinite().all():
        raise ValueError(
            "similarity: features must be finite, got inf or nan. Extract them again in float32."
        )


def _centred(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the unit vectors u less their mean m, and m (u - m) of each.

    ``u_i u_j`` is ``(u_i - m) (u_j - m) + m (u_j - m)`` and a constant of row i. Features of
    language models crowd around one direction; less that, fp32 resolves what tells them apart.
    """
    dtype = torch.promote_types(features.dtype, torch.float32)
    stripe = max(1, STRIPE_ENTRIES // features.shape[1])
    mean = sum(normalize(rows.double()).sum(0) for rows in features.split(stripe)) / len(features)
    check_finite(mean)
    centred = torch.empty_like(features, dtype=dtype)
    shift = torch.empty_like(features[:, 0], dtype=dtype)
    for start in range(0, len(features), stripe):
        rows = slice(start, start + stripe)
        rest = normalize(features[rows].double()).sub_(mean)
        centred[rows], shift[rows] = rest, rest @ mean
    return centred, shift


def _nearest(
    features: Tensor, centred: Tensor, shift: Tensor, doubt: Tensor, chunk: range, k: int
) -> Tensor:
    """Return the neighbours of a chunk; two cosines less than ``doubt`` apart may tie."""
    rows = torch.arange(chunk.start, chunk.stop, device=centred.device)
    cosine = _products(centred, chunk.start, chunk.stop).add_(shift)  # (rows, items)
    cosine.scatter_(1, rows[:, None], -torch.inf)
    values, nearest = cosine.topk(k + 1)
    least = values[:, k - 1] - doubt[rows]
    unsure = (values.diff(dim=1) > -doubt[rows, None]).any(1).nonzero()[:, 0]
    step = max(1, CHUNK_ENTRIES // 8 // len(features))
    for start in range(0, len(unsure), step):
        again = unsure[start : start + step]
        near = cosine[again] >= least[again, None]
        nearest[again, :k] = _settled(features, rows[again], near, k)
    return nearest[:, :k]


def _products(centred: Tensor, start: int, stop: int) -> Tensor:
    """Return ``centred[start:stop] @ centred.T``, by half of it where all of it is asked for."""
    items = len(centred)
    if stop - start < items:
        return centred[start:stop] @ centred.T
    products = centred.new_empty(items, items)
    step = max(1, items // 8)
    for first in range(0, items, step):
        last = min(first + step, items)
        torch.mm(centred[first:last], centred[first:].T, out=products[first:last, first:])
        products[last:, first:last] = products[first:last, last:].T
    return products


def _settled(features: Tensor, rows: Tensor, near: Tensor, k: int) -> Tensor:
    """Order the ``near`` items (rows, items) by fp64 cosines, and equal ones by their index."""
    unit = normalize(features[rows].double())
    items = near.any(0).nonzero()[:, 0]
    stripe = max(1, STRIPE_ENTRIES // features.shape[1])
    cosines = [unit @ normalize(features[columns].double()).T for columns in items.split(stripe)]
    cosine = torch.cat(cosines, 1).masked_fill_(~near[:, items], -torch.inf)
    cosine, order = cosine.sort(descending=True)
    rank = (cosine.diff(dim=1) < -TIE).cumsum(1)  # the same for equal cosines
    rank = pad(rank, (1, 0)).mul_(len(items)).add_(order)
    return items[rank.sort().values[:, :k] % len(items)]


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
