"""Convolutions of images: against a loop over samples."""

import pytest
import torch
from torch import nn

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import SAMPLES, Means, assert_close, loop, numbers, per_sample


@pytest.mark.parametrize("window", [{"padding": 1}, {"stride": 2, "dilation": 2}, {"bias": False}])
def test_convolutions_are_measured(window: dict) -> None:
    model = Means(nn.Conv2d(1, 3, (2, 3), **window), features=1)
    images, labels = numbers(1, 8, 8), torch.arange(SAMPLES) % 3
    moments = gradient_moments(model, images, labels, per_sample, model)
    assert_close(moments, loop(model, images, labels, per_sample, part=""), 1e-10)


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}]
)
def test_other_convolutions_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"zero padding in numbers.*got Conv2d with weight, bias"):
        GradientMoments(nn.Conv2d(2, 2, 3, **options))
