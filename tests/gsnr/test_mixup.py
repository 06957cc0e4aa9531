"""Mixup partners share pixels: what each estimator makes of them where the truth is known.

The loss of a sample is its input times the parameters, so its gradient is the input: a mixture of
two draws around one mean, whose agreement and variance follow from the shares.
"""

import functools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data import Mixup
from torch import nn

from rectify.gsnr.estimators import ESTIMATORS, Totals, totals
from rectify.gsnr.measure import gradient_moments
from rectify.tasks.classification import Mix

pytestmark = pytest.mark.slow  # a simulation

SAMPLES, SIZE, MEAN = 16, 300, 0.2
EPOCHS, BATCHES = 60, 6  # of an epoch
UNTOLD = 20  # epochs whose partners are not declared
SQUARES = 2 / 3  # the mean of s^2 + (1 - s)^2 for a uniform share s: the variance of a mixture
TRUTH = MEAN**2 / SQUARES
COVARIANCE = {"elem": 1 / 2, "batch": 1 / 3}  # of partners: shares of their own, or the same
MODES = pytest.mark.parametrize("mode", ["elem", "batch"])


@functools.cache
def measured(mode: str, *, told: bool = True) -> list[list[Totals]]:
    """Return the batches of each epoch; ``told`` says whether the partners are declared."""
    np.random.seed(0)
    draws = torch.Generator().manual_seed(0)
    mix = Mix(Mixup(mixup_alpha=1, mode=mode, num_classes=2), 0.0, 2)
    model = nn.Linear(SIZE, 1, bias=False).double()
    origins = mix.origins(torch.arange(SAMPLES)) if told else None

    def batch() -> Totals:
        drawn = MEAN + torch.randn(SAMPLES, SIZE, generator=draws, dtype=torch.float64)
        inputs, labels = mix(drawn[:, None, None], torch.zeros(SAMPLES, dtype=torch.int64))
        moments = gradient_moments(
            model, inputs.flatten(1), labels, lambda outputs, _: outputs[:, 0], model, origins
        )
        return totals(moments, 1e-8, "test")

    return [[batch() for _ in range(BATCHES)] for _ in range(EPOCHS if told else UNTOLD)]


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 99.9 % interval."""
    half = stats.t.ppf(0.9995, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


@MODES
def test_the_agreement_is_that_of_the_draws(mode: str) -> None:
    mean, half = interval([batch.agreement for epoch in measured(mode) for batch in epoch])
    assert half < 0.05 * SIZE * MEAN**2
    assert abs(mean - SIZE * MEAN**2) <= half


@MODES
def test_debiased_is_the_true_ratio(mode: str) -> None:
    mean, half = interval([ESTIMATORS["debiased"](epoch) for epoch in measured(mode)])
    assert half < 0.1 * TRUTH
    assert abs(mean - TRUTH) <= half


@MODES
def test_partners_that_are_taken_for_independent_lift_it(mode: str) -> None:
    """The squared mean then keeps the covariance of partners."""
    epochs = measured(mode, told=False)
    mean, half = interval([batch.agreement for epoch in epochs for batch in epoch])
    lifted = MEAN**2 + COVARIANCE[mode] / (SAMPLES - 1)
    assert abs(mean - SIZE * lifted) <= half
    mean, half = interval([ESTIMATORS["debiased"](epoch) for epoch in epochs])
    assert mean - half > 1.3 * TRUTH


@MODES
@pytest.mark.parametrize("estimator", ["plain", "xi", "unnormalised"])
def test_the_others_keep_the_noise_of_the_mean(mode: str, estimator: str) -> None:
    """They do not depend on who is mixed with whom, and are far above the truth."""
    told, untold = (
        [ESTIMATORS[estimator](epoch) for epoch in measured(mode, told=told)]
        for told in (True, False)
    )
    assert told[:UNTOLD] == pytest.approx(untold, rel=1e-12)
    scale = SAMPLES if estimator == "unnormalised" else 1
    mean, half = interval([scale * value for value in told])
    assert mean - half > 1.8 * TRUTH


def test_intervals_over_the_batches_of_an_epoch_cover_the_truth() -> None:
    """Of 60 intervals of 95 %; less than 50 have a chance of 0.1 %."""
    covered = 0
    for epoch in measured("elem"):
        value = ESTIMATORS["debiased"](epoch)
        variances = [batch.signal + batch.noise - batch.agreement for batch in epoch]
        residuals = [
            batch.agreement - value * variance
            for batch, variance in zip(epoch, variances, strict=True)
        ]
        error = math.sqrt(np.sum(np.square(residuals)) / (BATCHES - 1) / BATCHES)
        half = stats.t.ppf(0.975, BATCHES - 1) * error / np.mean(variances)
        covered += abs(value - TRUTH) <= half
    assert covered >= 50
