"""Layer norms: against a loop over samples."""

from collections.abc import Callable

import pytest
import timm.layers
from torch import nn

from rectify.gsnr.measure import gradient_moments
from tests.helpers.moments import Means, assert_close, batch, loop, numbers, per_sample


@pytest.mark.parametrize("tokens", [(), (3,), (2, 4)])
@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.LayerNorm(5),
        lambda: nn.LayerNorm((2, 5), eps=0.1),
        lambda: nn.LayerNorm(5, bias=False),
        lambda: timm.layers.LayerNorm(5),
    ],
)
def test_layer_norms_are_measured(tokens: tuple[int, ...], norm: Callable[[], nn.Module]) -> None:
    model, labels = Means(norm()), batch()[1]
    inputs = numbers(*tokens, *model.layer.normalized_shape)
    moments = gradient_moments(model, inputs, labels, per_sample, model)
    assert_close(moments, loop(model, inputs, labels, per_sample, part=""), 1e-10)
