"""Convolutions of sequences: against a loop over samples."""

import pytest
import torch
from torch import nn

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import (
    OTHER_OPTIONS,
    SAMPLES,
    Means,
    assert_close,
    loop,
    numbers,
    per_sample,
)

LABELS = torch.arange(SAMPLES) % 3


@pytest.mark.parametrize("kernel", [1, 2, 5])
@pytest.mark.parametrize(
    "window",
    [{}, {"padding": 2}, {"stride": 3}, {"padding": 1, "stride": 2, "dilation": 2, "bias": False}],
)
def test_convolutions_are_measured(kernel: int, window: dict) -> None:
    model = Means(nn.Conv1d(4, 3, kernel, **window), features=1)
    sequences = numbers(4, 11)
    moments = gradient_moments(model, sequences, LABELS, per_sample, model)
    assert_close(moments, loop(model, sequences, LABELS, per_sample, part=""), 1e-10)


def test_autocast_measures_the_gradient_that_it_trains_with() -> None:
    model, sequences = Means(nn.Conv1d(4, 3, 2), features=1).float(), numbers(4, 11).float()
    watched = GradientMoments(model)
    with watched:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = per_sample(model(sequences), LABELS)
        losses.mean().backward()
    for name, parameter in model.named_parameters():
        moments = watched.moments()[name]
        assert moments.mean.dtype == torch.float32
        assert (moments.mean - parameter.grad).norm() <= 0.02 * parameter.grad.norm(), name


@pytest.mark.parametrize("options", OTHER_OPTIONS)
def test_groups_and_any_padding_are_measured(options: dict) -> None:
    model, sequences = Means(nn.Conv1d(4, 8, 3, **options), features=1), numbers(4, 11)
    assert not GradientMoments(model).generic
    moments = gradient_moments(model, sequences, LABELS % 8, per_sample, model)
    assert_close(moments, loop(model, sequences, LABELS % 8, per_sample, part=""), 1e-10)
