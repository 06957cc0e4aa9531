"""Means, spreads and correlations over seeds, with nothing claimed that few seeds cannot say.

A standard deviation needs two seeds and an interval three; below that there is none, and
the number of seeds is always printed beside the mean. Differences between two variants
are taken seed by seed, because both saw the same batches.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

SEEDS_FOR_INTERVAL = 3
RESAMPLES = 50_000  # all 8! orders of 8 points are fewer: up to there the p value is exact


class Summary(NamedTuple):
    """Mean over ``n`` seeds; the sample standard deviation is none for one seed."""

    mean: float
    std: float | None
    n: int


class Correlation(NamedTuple):
    """Spearman's rank correlation of ``n`` points, -1 .. 1, with its two-sided p value."""

    rho: float
    p: float
    n: int


def summary(values: Sequence[float] | np.ndarray | Series) -> Summary:
    """Return mean, standard deviation (divisor n - 1) and number of the values.

    Raises:
        ValueError: If there are no values.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.size == 0:
        raise ValueError("summary: there must be at least one value, got none. Name a seed.")
    std = float(numbers.std(ddof=1)) if numbers.size > 1 else None
    return Summary(float(numbers.mean()), std, int(numbers.size))


def interval(
    values: Sequence[float] | np.ndarray | Series, level: float = 0.95
) -> tuple[float, float] | None:
    """Return Student's t interval of the mean, or nothing for fewer than three values."""
    from scipy import stats  # takes longer to import than all else that a table needs

    mean, std, n = summary(values)
    if n < SEEDS_FOR_INTERVAL or std is None:
        return None
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * std / math.sqrt(n)
    return mean - half, mean + half


def paired_difference(treated: Series, baseline: Series) -> Series:
    """Return treated minus baseline, seed by seed; both are indexed by seed.

    Raises:
        ValueError: If the two were not run with the same seeds.
    """
    ours, theirs = sorted(treated.index), sorted(baseline.index)
    if ours != theirs:
        raise ValueError(
            f"paired_difference: both sides must have the same seeds, got {ours} and {theirs}. "
            "Run the missing seeds."
        )
    return (treated - baseline).sort_index()


def paired_gains(runs: DataFrame, variant: str = "insert") -> DataFrame:
    """Return the runs of a variant with ``gain``: accuracy over vanilla, in points, per seed.

    Raises:
        ValueError: If a vanilla run of the same data and ViT is missing, or its seeds differ.
    """
    treated = runs[runs["variant"] == variant]
    return pd.concat(
        [
            run.assign(gain=_gain(run, _vanilla_of(run, runs)))
            for _, run in treated.groupby("run", sort=False)
        ]
        or [treated.assign(gain=0.0)]
    ).reset_index(drop=True)


def rank_correlation(
    left: Sequence[float] | np.ndarray | Series,
    right: Sequence[float] | np.ndarray | Series,
) -> Correlation | None:
    """Return Spearman's rank correlation with the p value of its permutation test.

    All orders are counted up to eight points, 50,000 random ones above. There is no
    correlation of fewer than three points, or of points that are all equal on one side.
    """
    from scipy import stats

    ranks_left, ranks_right = stats.rankdata(left), stats.rankdata(right)
    n = len(ranks_left)
    if n < 3 or np.ptp(ranks_left) == 0 or np.ptp(ranks_right) == 0:
        return None
    centred = (ranks_right - ranks_right.mean()) / ranks_right.std() / ranks_left.std() / n

    def rho(ranks: np.ndarray, axis: int) -> np.ndarray | float:
        return np.sum(ranks * centred, axis=axis)

    test = stats.permutation_test(
        (ranks_left,),
        rho,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    )
    return Correlation(float(np.clip(test.statistic, -1, 1)), float(test.pvalue), n)


def format_summary(mean: float, std: float | None, n: int, decimals: int = 2) -> str:
    """Return for example ``71.62 ± 0.31 (n=3)``, or ``71.62 (n=1)`` for one seed."""
    return f"{format_spread(mean, std, decimals)} (n={n})"


def format_spread(mean: float, std: float | None, decimals: int = 2) -> str:
    """Return for example ``71.62 ± 0.31``; without a standard deviation the mean alone."""
    if std is None or math.isnan(std):
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def _vanilla_of(run: DataFrame, runs: DataFrame) -> DataFrame:
    data, vision = run["data"].iloc[0], run["vision"].iloc[0]
    same = (runs["data"] == data) & (runs["vision"] == vision)
    vanilla = runs[same & (runs["variant"] == "vanilla")]
    if vanilla["run"].nunique() != 1:
        raise ValueError(
            f"gain of {run['run'].iloc[0]}: there must be one vanilla run of {vision} on {data}, "
            f"got {vanilla['run'].nunique()}. Add its folder to --runs."
        )
    return vanilla


def _gain(run: DataFrame, vanilla: DataFrame) -> list[float]:
    accuracy = run.set_index("seed")["accuracy_top1"]
    difference = paired_difference(accuracy, vanilla.set_index("seed")["accuracy_top1"])
    return [100 * float(difference[seed]) for seed in run["seed"]]
