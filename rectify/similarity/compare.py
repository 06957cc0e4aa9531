"""All that is measured between two models: each layer of one with each layer of the other.

Features are clamped as in Huh et al. (2024) and compared by Mutual-KNN, which is calibrated by
permutations, and by the alignment of kernels; each with a standard error over items.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from rectify.similarity.alignment import cka_matrix, cknna_matrix
from rectify.similarity.halves import mutual_knn_error, random_halves, reach
from rectify.similarity.neighbours import check_k, neighbours
from rectify.similarity.scores import calibrated_matrix, clamp_outliers, shared_neighbours


def compare(
    lefts: Sequence[Tensor] | Float[Tensor, "lefts items_left dim_left"],
    rights: Sequence[Tensor] | Float[Tensor, "rights items_right dim_right"],
    k: int,
    permutations: int,
    draws: Callable[[str], torch.Generator],
    quantile: float = 0.95,
    clamp: str = "global",
) -> dict[str, Float[Tensor, "lefts rights"]]:
    """Return each measure of similarity by the name of its column, for every pair of layers.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model.
        rights: Features of the same items from each layer of another.
        k: Neighbours per item.
        permutations: Of the null of Mutual-KNN.
        draws: Returns a CPU generator for a purpose.
        quantile: Of absolute values, at which features are clamped.
        clamp: Over what the quantile is taken: see ``clamp_outliers``.

    Raises:
        ValueError: If a number is out of range, the items differ, or a feature is not finite.
    """
    left, right = (clamp_outliers(side, quantile, clamp) for side in (lefts, rights))
    items = len(left[0])
    check_k(items, k)
    long = [[neighbours(layer, reach(k, items)) for layer in side] for side in (left, right)]
    lists = [[one[:, :k].contiguous() for one in side] for side in long]
    halves = random_halves(items, draws("halves"))
    scores = shared_neighbours(*lists)
    calibrated = calibrated_matrix(*lists, permutations, draws("permutations"))
    cka, cknna = cka_matrix(left, right), cknna_matrix(left, right, *long, k, halves)
    return {
        "mutual_knn": scores,
        "mutual_knn_error": mutual_knn_error(*long, k, halves),
        "mutual_knn_calibrated": calibrated.score,
        "p": calibrated.p,
        "p_maximum": calibrated.p_maximum,
        "cka": cka.score,
        "cka_error": cka.error,
        "cknna": cknna.score,
        "cknna_error": cknna.error,
    }
