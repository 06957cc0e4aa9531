"""Convolutions of videos: against a loop over samples."""

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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("options", [{}, {"padding": (1, 0, 2)}, {"stride": (2, 1, 2)},
                                     *OTHER_OPTIONS])  # fmt: skip
def test_convolutions_are_measured(options: dict) -> None:
    model = Means(nn.Conv3d(4, 8, (2, 3, 2), **options), features=1)
    clips, labels = numbers(4, 3, 6, 5), torch.arange(SAMPLES) % 3
    assert not GradientMoments(model).generic
    moments = gradient_moments(model, clips, labels, per_sample, model)
    assert_close(moments, loop(model, clips, labels, per_sample, part=""), 1e-10)
