"""Similarity of two feature spaces by mutual k nearest neighbours (Mutual-KNN).

Two feature spaces agree at an item when the item has the same neighbours in both. The score
is the mean share of common neighbours (Eq. 4; Huh et al., 2024), so it lies in 0 .. 1, and
two unrelated spaces score about ``k / (items - 1)``. Each layer's neighbours are found once;
layers are then compared through their lists of neighbours, so nothing is items x items, and
the lists serve any pair, any smaller k, bootstrap or null.
"""

from collections.abc import Sequence
from typing import SupportsIndex

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rectify.similarity.features import (
    Features,
    Layers,
    as_pair,
    as_sides,
    as_tensor,
    check_k,
    precise,
)
from rectify.similarity.neighbours import decided_neighbours

CHUNK_ENTRIES = 2**24  # of comparisons (k, k, items), 16 MiB
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
            finite, ``k`` is not in ``1 .. items - 1``, a side is collapsed (equal cosines of all
            pairs of items have no order), or equal cosines decide on both sides who is among the
            ``k``, for more than 5 % of the items.

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
    return shared_neighbours(*decided_neighbours([one], [other], k, k, "mutual_knn")).item()


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
    return shared_neighbours(*decided_neighbours(left, right, k, k, "mutual_knn_matrix"))


def shared_neighbours(
    lefts: Sequence[Int[Tensor, "items_left k_left"]],
    rights: Sequence[Int[Tensor, "items_right k_right"]],
) -> Float[Tensor, "lefts rights"]:
    """Return the mean share of common neighbours of each pair of lists from ``neighbours``.

    Raises:
        ValueError: If the lists differ in items or k.
    """
    return common_neighbours(lefts, rights).double() / lefts[0].numel()


def common_neighbours(
    lefts: Sequence[Int[Tensor, "items_left k_left"]],
    rights: Sequence[Int[Tensor, "items_right k_right"]],
) -> Int[Tensor, "lefts rights"]:
    """Return the number of common neighbours of each pair of lists, over all items.

    Raises:
        ValueError: As ``shared_neighbours``.
    """
    return _counts(_columns(lefts, rights), _columns(rights, lefts))


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
