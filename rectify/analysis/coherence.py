"""Coherence of gradients, compared fairly: at the same epoch, and at the same training loss.

GSNR falls while the loss falls, and what slows learning keeps it high. A run therefore has two
gains over vanilla: at equal epoch, as the paper compares (Eq. 7), and at equal loss. For the second
one, each epoch of the run is compared with vanilla at the loss that the run has there: its points
(main loss, GSNR) sorted by loss, with straight lines between them. Epochs whose loss vanilla never
has are left out; where none is left, there is no gain at equal loss.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from pandas import DataFrame, Series

from rectify.analysis.statistics import check_seeds, vanilla_of


class Measure(NamedTuple):
    """A measure of coherence, from the sums of blocks to what runs are compared by."""

    of_blocks: Callable[[DataFrame], Series]
    of_mean: Callable[[float], float] = np.float64
    """What is compared of its mean over blocks and epochs."""


def inverse(mean: float) -> float:
    """Return one over a mean that is above zero, else none.

    A mean of inverses would be that of its smallest denominators: where samples hardly agree, the
    estimated squared true gradient of a block may be any small number, also below zero.
    """
    return 1 / mean if mean > 0 else math.nan


MEASURES = {
    "gradient norm": Measure(lambda sums: sums["signal"] ** 0.5),
    "noise scale": Measure(lambda sums: sums["agreement"] / _variance(sums), inverse),
    "coherence": Measure(lambda sums: sums["signal"] / (sums["signal"] + sums["noise"])),
    "cosine": Measure(lambda sums: sums["agreement"] / (sums["signal"] + sums["noise"])),
}
"""What follows from the sums of a block's batch, columns ``signal``, ``noise`` and ``agreement``.

The norm of the mean gradient; the simple noise scale, trace of the covariance over the squared
true gradient (McCandlish et al., 2018), from the mean of its inverse; per-sample coherence, the
squared mean gradient over the mean squared one (Chatterjee and Zielinski, 2022); and the cosine of
two samples' gradients as a ratio of means (stiffness: Fort et al., 2019, with the mean of cosines).
"""
GAINS = ("equal_epoch", "equal_loss", "relative_epoch", "relative_loss")


def at_equal_loss(ours: DataFrame, vanilla: DataFrame) -> DataFrame:
    """Return values of a run next to those of vanilla at the same losses.

    Args:
        ours: One row per epoch: ``loss`` and ``value``.
        vanilla: The same of the vanilla run.

    Returns:
        The rows of ours within vanilla's range of losses, with the column ``vanilla``.
    """
    curve = vanilla.groupby("loss")["value"].mean()  # in the order of the losses
    inside = ours[ours["loss"].between(curve.index[0], curve.index[-1])]
    return inside.assign(vanilla=np.interp(inside["loss"], curve.index, curve))


def gains(
    gsnr: DataFrame, by: Sequence[str] = (), of_mean: Callable[[float], float] = np.float64
) -> DataFrame:
    """Return what each run gains over vanilla in GSNR, seed by seed, at equal epoch and loss.

    Args:
        gsnr: Rows of `Results.gsnr`, with the vanilla run of each data set and ViT.
        by: Columns that are kept apart, e.g. ``block``; otherwise the mean over blocks is taken.
        of_mean: What is compared of the means over epochs, if not these.

    Returns:
        One row per run, seed, estimator and ``by``. ``equal_epoch`` and ``equal_loss`` are mean
        differences over epochs, ``relative_epoch`` and ``relative_loss`` the same over the mean of
        vanilla; ``epochs`` is the number that is compared at equal loss. None without any.

    Raises:
        ValueError: If a vanilla run of the same data and ViT is missing, or its seeds differ.
    """
    keys = ["seed", "estimator", *by]
    curves = gsnr.groupby(["run", *keys, "epoch"], sort=False, as_index=False).agg(
        value=("gsnr", "mean"), loss=("main_loss", "first")
    )
    rows = []
    for name, run in gsnr[gsnr["variant"] != "vanilla"].groupby("run", sort=False):
        vanilla = vanilla_of(run, gsnr)
        check_seeds(run["seed"].unique().tolist(), vanilla["seed"].unique().tolist())
        baseline = dict(list(_of(curves, vanilla["run"].iloc[0]).groupby(keys)))
        for key, ours in _of(curves, name).groupby(keys, sort=False):
            rows.append((name, *key, *_gain(ours, baseline[key], of_mean)))
    return DataFrame(rows, columns=["run", *keys, *GAINS, "epochs"])


def with_gsnr_gains(runs: DataFrame, gsnr: DataFrame) -> DataFrame:
    """Return the runs with their ``gains`` in GSNR, ``<gain>_<estimator>``; vanilla has none.

    Args:
        runs: Rows of `Results.runs`.
        gsnr: Rows of `Results.gsnr` of the same runs.

    Raises:
        ValueError: If a vanilla run of the same data and ViT is missing, or its seeds differ.
    """
    long, keys = gains(gsnr), ["run", "seed"]
    for estimator in gsnr["estimator"].unique():
        own = long[long["estimator"] == estimator].set_index(keys)[list(GAINS)]
        runs = runs.join(own.add_suffix(f"_{estimator}"), on=keys)
    return runs


def _of(curves: DataFrame, run: str) -> DataFrame:
    return curves[curves["run"] == run]


def _gain(
    ours: DataFrame, vanilla: DataFrame, of_mean: Callable[[float], float]
) -> tuple[float, float, float, float, int]:
    base = of_mean(vanilla["value"].mean())
    at_epoch = of_mean(ours["value"].mean()) - base  # Eq. 7
    shared = at_equal_loss(ours, vanilla)
    base_at_loss = of_mean(shared["vanilla"].mean())
    at_loss = of_mean(shared["value"].mean()) - base_at_loss
    return at_epoch, at_loss, at_epoch / base, at_loss / base_at_loss, len(shared)


def _variance(sums: DataFrame) -> Series:
    return sums["signal"] + sums["noise"] - sums["agreement"]
