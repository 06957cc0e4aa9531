"""All that is measured between two models: each layer of one with each layer of the other.

Features are clamped as in Huh et al. (2024) and compared by Mutual-KNN, which is calibrated by
permutations, and by the alignment of kernels; each with a standard error over items.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rectify.similarity.alignment import cka_matrix, cknna_matrix
from rectify.similarity.calibration import calibrated_matrix
from rectify.similarity.features import Layers, as_sides, check_k
from rectify.similarity.halves import mutual_knn_error, random_halves, reach
from rectify.similarity.neighbours import decided_neighbours
from rectify.similarity.scores import clamp_outliers, shared_neighbours


def compare(
    lefts: Layers,
    rights: Layers,
    k: int,
    permutations: int,
    draws: Callable[[str], torch.Generator],
    quantile: float = 0.95,
    clamp: str = "global",
) -> dict[str, Float[Tensor, "lefts rights"]]:
    """Return each measure of similarity by the name of its column, for every pair of layers.

    Args:
        lefts: Features ``(items, dim)`` of each layer of one model, as ``mutual_knn_matrix`` takes
            them.
        rights: Features of the same items from each layer of another.
        k: Neighbours per item.
        permutations: Of the null of Mutual-KNN.
        draws: Returns a CPU generator for a purpose.
        quantile: Of absolute values, at which features are clamped.
        clamp: Over what the quantile is taken: see ``clamp_outliers``.

    Raises:
        ValueError: If a number is out of range, the items differ, a feature is not finite, or a
            layer is collapsed or ties with one of the other side, as for ``mutual_knn``.

    Example:
        >>> import torch
        >>> from rectify.runtime import generator
        >>> space = torch.randn(2, 30, 8, generator=generator(0, "doc"))
        >>> measures = compare(space, space[:1], 5, 99, lambda purpose: generator(0, purpose))
        >>> measures["mutual_knn"][0, 0].item(), tuple(measures["cka"].shape)
        (1.0, (2, 1))
    """
    sides = as_sides(lefts, rights, "similarity")
    clamped = (clamp_outliers(side, quantile, clamp) for side in sides)
    left, right = as_sides(*clamped, "similarity")  # clamped to 0, features are collapsed
    items = len(left[0])
    k = check_k(items, k)
    long = decided_neighbours(left, right, k, reach(k, items), "similarity")
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
