"""One model against several draws of another, each compared with several ViTs on the same items."""

import math
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A mean difference, its standard error, and its 95 % interval."""

    mean: float
    error: float
    low: float
    high: float


def difference(
    model: np.ndarray, draws: np.ndarray, model_error: np.ndarray, draws_error: np.ndarray
) -> Difference:
    """Return by how much a model scores higher than draws of another, mean over ViTs and draws.

    The squared standard error is a sum of

        the squared error over items of the model's mean score,
        the squared error over items of the draws' mean score,
        the variance of the difference over draws, divided by their number, and
        its variance over ViTs, divided by their number,

    the last two where there are at least two. All scores are of the same items, so their errors do
    not average out: that of a mean is at most the mean of the errors, which is taken. The two sides
    are taken as if independent, which is too wide where the same items raise both. The interval is
    Student's, with the degrees of freedom of Satterthwaite (1946), where the error over items
    counts as known.

    Args:
        model: Score with each ViT, shape (ViTs,).
        draws: Score of each draw with each ViT, shape (draws, ViTs).
        model_error: Standard error over items of each score of the model.
        draws_error: The same of the draws.
    """
    from scipy import stats

    differences = model[None, :] - draws
    known = float(model_error.mean() ** 2 + draws_error.mean() ** 2)
    sampled = [
        (float(means.var(ddof=1) / len(means)), len(means) - 1)
        for means in (differences.mean(axis=1), differences.mean(axis=0))
        if len(means) > 1
    ]
    variance = known + sum(part for part, _ in sampled)
    spread = sum(part**2 / freedom for part, freedom in sampled)
    freedom = variance**2 / spread if spread > 0 else math.inf
    mean, error = float(differences.mean()), math.sqrt(variance)
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Difference(mean, error, mean - half, mean + half)
