"""Means, spreads and correlations over seeds, with nothing claimed that few seeds cannot say.

A standard deviation needs two seeds; the number of seeds is always printed next to the mean.
Differences between two variants are taken seed by seed, because both saw the same batches.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from pandas import DataFrame, Series

from rectify.analysis.metrics import Metric

RESAMPLES = 50_000  # where there are no more orders, as of 8 points, the p value is exact


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


def paired_difference(treated: Series, baseline: Series) -> Series:
    """Return treated minus baseline, seed by seed; both are indexed by seed.

    Raises:
        ValueError: If the two were not run with the same seeds.
    """
    check_seeds(treated.index, baseline.index)
    return (treated - baseline).sort_index()


def check_seeds(treated: Iterable[int], baseline: Iterable[int]) -> None:
    """Check that two sides have the same seeds.

    Raises:
        ValueError: If one has a seed that the other has not.
    """
    ours, theirs = sorted(treated), sorted(baseline)
    if ours != theirs:
        raise ValueError(
            f"paired_difference: both sides must have the same seeds, got {ours} and {theirs}. "
            "Run the missing seeds."
        )


def interval(values: Sequence[float] | np.ndarray | Series) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean, by Student's t; none for fewer than three values."""
    mean, std, n = summary(values)
    if n < 3:
        return None
    from scipy import special  # ``stats`` takes longer to import than all else that a table needs

    half = float(special.stdtrit(n - 1, 0.975)) * std / math.sqrt(n)
    return mean - half, mean + half


def with_gains(runs: DataFrame, metrics: Sequence[Metric]) -> DataFrame:
    """Return the runs with what each gains over vanilla, seed by seed, in ``gain_<metric>``.

    A gain is positive where the run is better. Vanilla runs have none.

    Args:
        runs: Rows of `Results.runs`, with the vanilla run of each data set and ViT.
        metrics: Metrics whose gains are added.

    Raises:
        ValueError: If a vanilla run of the same data and ViT is missing, or its seeds differ.
    """
    gains = {metric.gain.name: Series(math.nan, runs.index) for metric in metrics}
    for _, run in runs[runs["variant"] != "vanilla"].groupby("run", sort=False):
        vanilla = vanilla_of(run, runs).set_index("seed")
        for metric in metrics:
            ours = run.set_index("seed")[metric.name]
            difference = paired_difference(ours, vanilla[metric.name])
            sign = 1 if metric.better == "higher" else -1
            gains[metric.gain.name][run.index] = sign * difference[run["seed"]].to_numpy()
    return runs.assign(**gains)


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


def stratified_correlation(
    left: Sequence[float] | np.ndarray | Series,
    right: Sequence[float] | np.ndarray | Series,
    strata: Sequence[str] | np.ndarray | Series,
) -> Correlation | None:
    """Return the rank correlation within strata, with the p value of its permutation test.

    Both sides are ranked within each stratum and the ranks centred there, so that nothing that
    distinguishes the strata counts. Points change places within their stratum only: all orders
    are counted where there are at most 50,000, as many random ones otherwise. There is no
    correlation of fewer than three points, or where all strata are equal on one side.

    Args:
        left: A value of each point.
        right: Its other value.
        strata: The stratum of each point.
    """
    names = np.asarray(strata)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]
    pairs = [tuple(_centred(np.asarray(side)[m]) for side in (left, right)) for m in members]
    ours, theirs = (np.concatenate([pair[side] for pair in pairs] or [[]]) for side in (0, 1))
    size = math.sqrt((ours @ ours) * (theirs @ theirs))
    if len(names) < 3 or size == 0:
        return None
    observed = ours @ theirs
    sums, is_exact = _reordered(pairs)
    extra = 0 if is_exact else 1  # the order that was observed, as scipy counts it
    rarer = min(np.sum(sums <= observed), np.sum(sums >= observed)) + extra
    p = min(1.0, 2 * rarer / (len(sums) + extra))
    return Correlation(float(np.clip(observed / size, -1, 1)), float(p), len(names))


def _centred(values: np.ndarray) -> np.ndarray:
    """Return ranks less their mean: multiples of a half, whose products have no rounding."""
    from scipy import stats

    return stats.rankdata(values) - (len(values) + 1) / 2


def _reordered(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, bool]:
    """Return sums of products over orders within the pairs, and whether these are all orders."""
    if math.prod(math.factorial(len(ours)) for ours, _ in pairs) > RESAMPLES:
        rng, sums = np.random.default_rng(0), np.zeros(RESAMPLES)
        for ours, theirs in pairs:
            sums += rng.permuted(np.tile(theirs, (RESAMPLES, 1)), axis=1) @ ours
        return sums, False
    sums = np.zeros(1)
    for ours, theirs in pairs:
        orders = np.array(list(itertools.permutations(theirs)))
        sums = np.add.outer(sums, orders @ ours).ravel()
    return sums, True


def holm(p: Sequence[float] | np.ndarray | Series) -> np.ndarray:
    """Return p values corrected for their number by Holm (1979), in the order given.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none is below one that was
    smaller, or above 1. So the chance that any of m tests without an effect falls below a level
    is at most this level, however the tests depend on each other.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def format_p(p: float) -> str:
    """Return for example ``p = 0.012``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def format_correlation(correlation: Correlation | None) -> str:
    """Return for example ``ρ = 0.51, p = 0.012``."""
    if correlation is None:
        return "no correlation"
    return f"ρ = {correlation.rho:.2f}, {format_p(correlation.p)}"


def format_spread(mean: float, std: float | None, decimals: int = 2) -> str:
    """Return for example ``71.62 ± 0.31``; without a standard deviation the mean alone."""
    if std is None or math.isnan(std):
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


def seed_count(n: int) -> str:
    """Return how many seeds there are, as "n = 2 seeds"."""
    return f"n = {n} seed{'' if n == 1 else 's'}"


def vanilla_of(run: DataFrame, runs: DataFrame) -> DataFrame:
    """Return the rows of the vanilla run of the same data and ViT.

    Raises:
        ValueError: If there is not one.
    """
    data, vision = run["data"].iloc[0], run["vision"].iloc[0]
    same = (runs["data"] == data) & (runs["vision"] == vision)
    vanilla = runs[same & (runs["variant"] == "vanilla")]
    if vanilla["run"].nunique() != 1:
        raise ValueError(
            f"gain of {run['run'].iloc[0]}: there must be one vanilla run of {vision} on {data}, "
            f"got {vanilla['run'].nunique()}. Add its folder to --runs."
        )
    return vanilla
