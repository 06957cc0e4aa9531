"""Convolutions of images: against a loop over samples."""

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


@pytest.mark.parametrize("window", [{"padding": 1}, {"stride": 2, "dilation": 2}, {"bias": False}])
def test_convolutions_are_measured(window: dict) -> None:
    model = Means(nn.Conv2d(1, 3, (2, 3), **window), features=1)
    images, labels = numbers(1, 8, 8), torch.arange(SAMPLES) % 3
    moments = gradient_moments(model, images, labels, per_sample, model)
    assert_close(moments, loop(model, images, labels, per_sample, part=""), 1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("at_hand", [2**26, 0])  # bytes: all groups at once, and one by one
@pytest.mark.parametrize("options", OTHER_OPTIONS)
def test_groups_and_any_padding_are_measured(
    options: dict, at_hand: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rectify.gsnr.layers.conv2d.AT_HAND_BYTES", at_hand)
    model = Means(nn.Conv2d(4, 8, (3, 2), **options), features=1)
    images, labels = numbers(4, 6, 7), torch.arange(SAMPLES) % 3
    assert not GradientMoments(model).generic
    moments = gradient_moments(model, images, labels, per_sample, model)
    assert_close(moments, loop(model, images, labels, per_sample, part=""), 1e-10)
