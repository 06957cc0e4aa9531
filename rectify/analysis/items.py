"""Does a run beat vanilla on the test items themselves? Paired tests from kept scores of items.

Both models are scored on the same items. If neither is better, the two scores of an item could as
well be exchanged. Scores of several seeds are added up item by item and exchanged together: an
item counts once, however many seeds there are. The test speaks of these trained models and of
further test items; the interval over seeds speaks of further trainings.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.metrics import TEST_LOSS, TOP_K, Metric
from rectify.analysis.statistics import vanilla_of, with_gains
from rectify.results.declared import LAST

RESAMPLES = 2_000  # of a bootstrap
ROUNDED = 1e-14  # of an exact p value
FEW = 10
"""Resamples beyond zero that are too few to be counted: p values below 0.011."""


def with_comparisons(runs: DataFrame, results: Results, metrics: Sequence[Metric]) -> DataFrame:
    """Return the runs with their gains over vanilla, and with the p values of `item_p`.

    A p value is in the column of ``Metric.item_test`` and the same for all seeds of a run; there is
    none for vanilla runs, for shifts, whose items are not kept, and for metrics that are not means
    over items of the models after the last epoch.

    Args:
        runs: Rows of `Results.runs`, with the vanilla run of each data set and ViT.
        results: Where they are from.
        metrics: Metrics that are compared.

    Raises:
        ValueError: If a vanilla run of the same data and ViT is missing, its seeds differ, or it
            was scored on other items.
    """
    runs = with_gains(runs, metrics)
    tests = {metric.item_test.name: Series(math.nan, runs.index) for metric in metrics}
    items = cache(results.items)  # a vanilla run is compared with many
    for name, run in runs[runs["variant"] != "vanilla"].groupby("run", sort=False):
        vanilla = vanilla_of(run, runs)["run"].iloc[0]
        both = [[items(one, seed) for seed in run["seed"]] for one in (name, vanilla)]
        for metric in metrics:
            column = _column(metric.name, both[0][0], results.report)
            if column is not None:
                ours, theirs = ([frame[column] for frame in frames] for frames in both)
                _check_same_items(f"{name}", ours, theirs)
                tests[metric.item_test.name][run.index] = item_p(np.array(ours), np.array(theirs))
    return runs.assign(**tests)


def item_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the two-sided p value of the difference of two models' scores on the same items.

    Scores that are 0 or 1 are compared by the exact test over all exchanges; with one seed this is
    McNemar's exact test. Others are compared by the bootstrap over items: twice the share of the
    resampled mean differences beyond zero. Where these are few, it is that of a normal distribution
    with their standard deviation, so that p values can still be small after a correction for the
    tests of a whole table.

    Args:
        ours: Scores (seeds, items).
        theirs: Those of the other model.
    """
    totals = (ours - theirs).sum(0)
    if np.isin(ours, (0, 1)).all() and np.isin(theirs, (0, 1)).all():
        return _exchanged(totals)
    return _bootstrapped(totals)


def _exchanged(totals: np.ndarray) -> float:
    """Return how often random signs of whole numbers give a sum as far from zero as theirs.

    The chances of all sums are the Fourier transform of their characteristic function, a product
    over the numbers (Hong, 2013, of the Poisson binomial distribution); right to `ROUNDED`, which
    stands for all that is less.
    """
    sizes, counts = np.unique(np.abs(totals).astype(int), return_counts=True)
    most = int(sizes @ counts)  # sum of all numbers
    angles = 2 * np.pi * np.arange(most // 2 + 1) / (most + 1)
    characteristic = np.ones(len(angles), complex)  # of the sum of those that keep their sign
    for size, count in zip(sizes, counts, strict=True):
        characteristic *= ((1 + np.exp(-1j * size * angles)) / 2) ** count
    chances = np.fft.irfft(characteristic, most + 1)
    least = (most + abs(round(float(totals.sum())))) // 2  # the sum of signed numbers is even to it
    return float(np.clip(2 * chances[least:].sum(), ROUNDED, 1))


def _bootstrapped(totals: np.ndarray) -> float:
    from scipy import stats

    if not totals.any():
        return 1.0
    means = stats.bootstrap(
        (totals,),
        np.mean,
        n_resamples=RESAMPLES,
        method="percentile",
        batch=max(1, 10**7 // len(totals)),
        rng=np.random.default_rng(0),
    ).bootstrap_distribution
    rarer = min(np.sum(means <= 0), np.sum(means >= 0))
    if rarer > FEW:
        return float(min(1.0, 2 * (rarer + 1) / (RESAMPLES + 1)))
    least = 2.0 ** (1 - len(totals))  # of all exchanges, where all items differ alike
    error = means.std()
    return max(least, float(2 * stats.norm.sf(abs(totals.mean()) / error))) if error else least


def _column(metric: str, items: DataFrame, report: str) -> str | None:
    """Return the column of the items' scores that a metric is the mean of, if there is one."""
    if metric == TEST_LOSS:
        return "loss" if "loss" in items else None
    name, is_topk = metric.removesuffix(f"_{TOP_K}"), metric.endswith(f"_{TOP_K}")
    if report != LAST and not is_topk:
        return None
    ks = sorted((column for column in items if column.startswith(f"{name}@")), key=_k)
    if is_topk:
        return ks[-1] if len(ks) > 1 else None
    return next(iter(ks), name if name in items else None)


def _k(column: str) -> int:
    return int(column.partition("@")[2])


def _check_same_items(run: str, ours: Sequence[Series], theirs: Sequence[Series]) -> None:
    sizes = {len(scores) for scores in (*ours, *theirs)}
    if len(sizes) != 1:
        raise ValueError(
            f"{run}: it and its vanilla run must be scored on the same test items, got "
            f"{' and '.join(map(str, sorted(sizes)))} of them. Evaluate both again."
        )
