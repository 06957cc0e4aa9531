"""Similarity of two feature spaces, above all by mutual k nearest neighbours (Mutual-KNN).

Two feature spaces agree at an item when the item has the same neighbours in both. The score
is the mean share of common neighbours (Eq. 4; Huh et al., 2024), so it lies in 0 .. 1, and
two unrelated spaces score about ``k / (items - 1)``. Each layer's neighbours are found once;
layers are then compared through their lists of neighbours, so nothing is items x items, and
the lists serve any pair, any smaller k, bootstrap or null.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from rectify.neighbours import check_finite, check_k, neighbours

CHUNK_ENTRIES = 2**24  # of a table (some items, items, layers), 64 MiB in fp32


def mutual_knn(
    left: Float[Tensor, "items_left dim_left"],
    right: Float[Tensor, "items_right dim_right"],
    k: int,
) -> float:
    """Return the mean share of the ``k`` neighbours that both spaces have in common.

    Args:
        left: One feature vector per item; scaled to unit length here.
        right: Features of the same items, in the same order, from another model.
        k: Neighbours per item; an item is never its own neighbour.

    Raises:
        ValueError: If ``k`` is not in ``1 .. items - 1``, the numbers of items differ, or a
            feature is not finite.
    """
    return mutual_knn_matrix([left], [right], k).item()


def mutual_knn_matrix(
    lefts: Sequence[Tensor] | Float[Tensor, "lefts items_left dim_left"],
    rights: Sequence[Tensor] | Float[Tensor, "rights items_right dim_right"],
    k: int,
) -> Float[Tensor, "lefts rights"]:
    """Return ``mutual_knn`` of every pair of layers; each layer is searched once.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model.
        rights: Features of the same items from each layer of another.
        k: Neighbours per item.
    """
    return shared_neighbours(
        [neighbours(left, k) for left in lefts], [neighbours(right, k) for right in rights]
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


def agreement(
    left: Int[Tensor, "items_left k_left"], right: Int[Tensor, "items_right k_right"]
) -> Float[Tensor, " items_left"]:
    """Return each item's share of common neighbours, 0 .. 1; their mean is the score of the pair.

    A bootstrap over the items resamples these shares; their standard deviation over the root of
    the number of items is the standard error.

    Args:
        left: A list from ``neighbours``.
        right: A list of the same items.

    Raises:
        ValueError: If the lists differ in items or k.
    """
    _check_same_lists([left, right])
    common = left[:, :, None] == right[:, None, :]  # (items, k, k)
    return common.sum((1, 2)).double() / left.shape[1]


def calibrated(
    left: Int[Tensor, "items_left k_left"],
    right: Int[Tensor, "items_right k_right"],
    permutations: int,
    generator: torch.Generator,
) -> tuple[float, float]:
    """Return the calibrated score and p-value of one pair, as ``calibrated_matrix`` does."""
    score, p_value = calibrated_matrix([left], [right], permutations, generator)
    return score.item(), p_value.item()


def calibrated_matrix(
    lefts: Sequence[Int[Tensor, "items_left k_left"]],
    rights: Sequence[Int[Tensor, "items_right k_right"]],
    permutations: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "lefts rights"], Float[Tensor, "lefts rights"]]:
    """Compare scores with those of permuted items (Groeger et al., 2026).

    Args:
        lefts: Lists from ``neighbours``, one per layer.
        rights: Lists of the same items from another model.
        permutations: How often the items of ``rights`` are permuted, the same way for all pairs.
        generator: A CPU generator that draws the permutations.

    Returns:
        ``(score - mean) / (1 - mean)`` with the mean over the permutations: 0 at chance (it may
        be negative), 1 for identical neighbours; and the share of the permutations, and the
        data themselves, that score at least as high: the p-value.

    Raises:
        ValueError: If there is no permutation, the lists differ in items or k, or hold all items.
    """
    if permutations < 1:
        raise ValueError(
            f"calibrated: permutations must be at least 1, got {permutations}. "
            "Raise similarity.permutations in the config."
        )
    items, k = lefts[0].shape
    if k >= items - 1:
        raise ValueError(
            f"calibrated: k must lie below {items - 1}, since all other items always agree, got "
            f"{k}. Lower similarity.k in the config, or use more items."
        )
    possible = lefts[0].numel()
    observed = _counts(_columns(lefts, rights), _columns(rights, lefts)).double()
    orders = [torch.randperm(items, generator=generator) for _ in range(permutations)]
    counts = _permuted_counts(torch.stack(list(lefts)), torch.stack(list(rights)), orders)
    mean = counts.sum(0) / (permutations * possible)
    score = (observed / possible - mean) / (1 - mean)
    return score, ((counts >= observed).sum(0) + 1).double() / (permutations + 1)


def chance_level(k: int, items: int) -> float:
    """Return the expected ``mutual_knn`` of unrelated spaces, the mean over all permutations."""
    check_k(items, k)
    return k / (items - 1)


def clamp_outliers(
    layers: Sequence[Tensor] | Float[Tensor, "layers items dim"],
    quantile: float = 0.95,
    scope: str = "global",
) -> list[Tensor]:
    """Clamp features to plus or minus a quantile of their absolute values (Huh et al., 2024).

    Args:
        layers: Features ``(items, dim)`` of each layer of one model.
        quantile: In 0 .. 1; the threshold is ``sorted(|values|)[int(quantile * numel)]``, and
            1 changes nothing.
        scope: ``global``: one threshold over all layers, as published; ``per_layer``: one each.

    Raises:
        ValueError: If quantile or scope is none of these.
    """
    if not 0 < quantile <= 1 or scope not in ("global", "per_layer"):
        raise ValueError(
            "clamp_outliers: quantile must lie in 0..1 and scope be global or per_layer, got "
            f"{quantile} and {scope!r}. Change similarity.quantile in the config."
        )
    layers = [_precise(layer) for layer in layers]
    if quantile == 1:
        return layers
    groups = [layers] if scope == "global" else [[layer] for layer in layers]
    return [
        layer.clamp(-threshold, threshold)
        for group in groups
        for threshold in [_magnitude(group, quantile)]
        for layer in group
    ]


def unbiased_cka(
    left: Float[Tensor, "items_left dim_left"], right: Float[Tensor, "items_right dim_right"]
) -> float:
    """Return centred kernel alignment by the unbiased HSIC (Song et al., 2012), cosine kernel.

    1 for equal spaces, around 0 (also below) for unrelated ones.

    Raises:
        ValueError: If there are fewer than 4 items, their numbers differ, or a feature is not
            finite.
    """
    _check_same_items(len(left), len(right))
    if len(left) < 4:
        raise ValueError(f"unbiased_cka: at least 4 items are needed, got {len(left)}. Use more.")
    left, right = (normalize(_checked(side).double()) for side in (left, right))
    both = _hsic(left, right)
    return (both / (_hsic(left, left) * _hsic(right, right)).sqrt()).item()


def cknna(
    left: Float[Tensor, "items_left dim_left"],
    right: Float[Tensor, "items_right dim_right"],
    k: int,
) -> float:
    """Return the kernel alignment over common neighbours (CKNNA, Huh et al., 2024).

    Cosines, less their mean over all items of the row, are multiplied and summed over the pairs
    that are neighbours in both spaces, and divided by the same sums of each space with itself:
    1 for equal spaces, near 0 for unrelated ones. This is the formula of the paper; their code
    puts the masked kernels through the unbiased HSIC instead.

    Raises:
        ValueError: As ``mutual_knn``, or if all cosines of a side are equal.
    """
    _check_same_items(len(left), len(right))
    left_list, right_list = neighbours(left, k), neighbours(right, k)
    left_cosine, right_cosine = _centred(left, left_list), _centred(right, right_list)
    common = left_list[:, :, None] == right_list[:, None, :]  # (items, k, k)
    both = (common * left_cosine[:, :, None] * right_cosine[:, None, :]).sum()
    sizes = (left_cosine.square().sum() * right_cosine.square().sum()).sqrt()
    if sizes == 0:
        raise ValueError(
            "cknna: the cosines of each side must differ, got equal ones. Leave the layer out."
        )
    return (both / sizes).item()


def pairwise(
    score: Callable[[Tensor, Tensor], float],
    lefts: Sequence[Tensor] | Float[Tensor, "lefts items_left dim_left"],
    rights: Sequence[Tensor] | Float[Tensor, "rights items_right dim_right"],
) -> Float[Tensor, "lefts rights"]:
    """Return ``score`` of every pair of layers, for measures that have no faster way."""
    scores = [[score(left, right) for right in rights] for left in lefts]
    return torch.tensor(scores, dtype=torch.float64)


def _counts(lefts: Tensor, rights: Tensor) -> Tensor:
    """Count equal neighbours of every pair; items come last so that the comparison is fast."""
    k, items = lefts.shape[1:]
    chunk = max(1, CHUNK_ENTRIES // (k * k))
    counts = torch.zeros(len(lefts), len(rights), dtype=torch.int64, device=lefts.device)
    for i, left in enumerate(lefts):
        for j, right in enumerate(rights):
            for start in range(0, items, chunk):
                part = slice(start, start + chunk)
                counts[i, j] += (left[:, None, part] == right[None, :, part]).count_nonzero()
    return counts


def _permuted_counts(lefts: Tensor, rights: Tensor, orders: list[Tensor]) -> Tensor:
    """Count equal neighbours of every pair for each order of the items of ``rights``.

    For some items at a time, a table says of each (item, neighbour) which left layers have it;
    the rows for all right layers' neighbours are then summed, in any order.

    Args:
        lefts: Lists (lefts, items, k).
        rights: Lists (rights, items, k).
        orders: Permutations of the items.

    Returns:
        Counts (orders, lefts, rights).
    """
    layers, items = lefts.shape[:2]
    orders = torch.stack(orders).to(lefts.device)
    places = orders.argsort(1)  # the new index of each item
    rights = rights.long()
    counts = torch.zeros(len(orders), len(rights), layers, dtype=torch.float64, device=lefts.device)
    for some in torch.arange(items, device=lefts.device).split(
        max(1, CHUNK_ENTRIES // (items * layers))
    ):
        table = torch.zeros(len(some), items, layers, device=lefts.device)
        table.scatter_(1, lefts[:, some].permute(1, 2, 0).long(), 1.0)  # (items, k, layers)
        first = items * torch.arange(len(some), device=lefts.device)[:, None]
        for count, order, place in zip(counts, orders, places, strict=True):
            rows = (place[rights[:, order[some]]] + first).flatten(1)  # (rights, items * k)
            count += embedding_bag(rows, table.flatten(0, 1), mode="sum")
    return counts.mT


def _columns(lists: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    _check_same_lists([*lists, *others])
    return torch.stack([one.T.contiguous() for one in lists])  # (layers, k, items)


def _check_same_lists(lists: Sequence[Tensor]) -> None:
    shapes = {tuple(one.shape) for one in lists}
    if len(shapes) != 1:
        raise ValueError(
            "mutual_knn: both sides must have the same items and k, got (items, k) "
            f"{sorted(shapes)}. Compare features of the same items, in the same order."
        )


def _hsic(left: Tensor, right: Tensor) -> Tensor:
    """Unbiased HSIC of linear kernels with an empty diagonal, without forming the kernels."""
    items = len(left)
    left_own, right_own = left.square().sum(1), right.square().sum(1)  # the diagonals
    left_rows = left @ left.sum(0) - left_own
    right_rows = right @ right.sum(0) - right_own
    trace = (left.T @ right).square().sum() - left_own @ right_own
    means = left_rows.sum() * right_rows.sum() / ((items - 1) * (items - 2))
    return (trace + means - 2 / (items - 2) * left_rows @ right_rows) / (items * (items - 3))


def _centred(features: Tensor, found: Tensor) -> Tensor:
    """Cosine of each item with its neighbours, less its mean cosine with all items."""
    unit = normalize(features.double())
    rows = [(unit[some] @ one) for one, some in zip(unit, found.long(), strict=True)]
    return torch.stack(rows) - (unit @ unit.mean(0))[:, None]  # (items, k)


def _magnitude(group: list[Tensor], quantile: float) -> Tensor:
    values = torch.cat([layer.abs().flatten() for layer in group])
    return values.kthvalue(int(quantile * len(values)) + 1).values


def _checked(features: Tensor) -> Tensor:
    check_finite(features)
    return _precise(features)


def _precise(features: Tensor) -> Tensor:
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _check_same_items(left: int, right: int) -> None:
    if left != right:
        raise ValueError(
            f"similarity: both sides must have the same items, got {left} and {right}. "
            "Compare features of the same items, in the same order."
        )
