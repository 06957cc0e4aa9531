"""Similarity of two feature spaces by the alignment of their kernels: unbiased CKA, and CKNNA.

Both compare cosines of all pairs of items: CKA all of them, CKNNA those of items that are
neighbours in both spaces. 1 for equal spaces, around 0 (also below) for unrelated ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from rectify.similarity.neighbours import Array, as_tensor, check_finite, neighbours, precise


def unbiased_cka(
    left: Float[Array, "items_left dim_left"], right: Float[Array, "items_right dim_right"]
) -> float:
    """Return centred kernel alignment by the unbiased HSIC (Song et al., 2012), cosine kernel.

    Args:
        left: One feature vector per item, tensor or NumPy array.
        right: Features of the same items, in the same order, from another model.

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
    left: Float[Array, "items_left dim_left"],
    right: Float[Array, "items_right dim_right"],
    k: int,
) -> float:
    """Return the kernel alignment over common neighbours (CKNNA, Huh et al., 2024).

    Cosines, less their mean over all items of the row, are multiplied and summed over the pairs
    that are neighbours in both spaces, and divided by the same sums of each space with itself.
    This is the formula of the paper; their code puts the masked kernels through the unbiased
    HSIC instead.

    Args:
        left: One feature vector per item, tensor or NumPy array.
        right: Features of the same items, in the same order, from another model.
        k: Neighbours per item; an item is never its own neighbour.

    Raises:
        ValueError: As ``mutual_knn``, or if all cosines of a side are equal.
    """
    _check_same_items(len(left), len(right))
    left, right = as_tensor(left), as_tensor(right)
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


def _hsic(left: Tensor, right: Tensor) -> Tensor:
    """Return the unbiased HSIC of linear kernels with an empty diagonal; none is formed."""
    items = len(left)
    left_diagonal, right_diagonal = left.square().sum(1), right.square().sum(1)
    left_rows = left @ left.sum(0) - left_diagonal
    right_rows = right @ right.sum(0) - right_diagonal
    trace = (left.T @ right).square().sum() - left_diagonal @ right_diagonal
    means = left_rows.sum() * right_rows.sum() / ((items - 1) * (items - 2))
    return (trace + means - 2 / (items - 2) * left_rows @ right_rows) / (items * (items - 3))


def _centred(features: Tensor, near: Tensor) -> Tensor:
    """Return the cosine of each item with its neighbours, less its mean cosine with all items."""
    unit = normalize(features.double())
    rows = [unit[indices] @ item for item, indices in zip(unit, near.long(), strict=True)]
    return torch.stack(rows) - (unit @ unit.mean(0))[:, None]  # (items, k)


def _checked(features: Array) -> Tensor:
    features = as_tensor(features)
    check_finite(features)
    return precise(features)


def _check_same_items(left: int, right: int) -> None:
    if left != right:
        raise ValueError(
            f"similarity: both sides must have the same items, got {left} and {right}. "
            "Compare features of the same items, in the same order."
        )
