"""Linear layers: against a loop over samples."""

import pytest
from torch import nn

from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import (
    BOTH_MODES,
    Means,
    assert_close,
    batch,
    loop,
    numbers,
    per_sample,
)


@BOTH_MODES
@pytest.mark.parametrize("tokens", [(), (3,), (2, 4), (2, 3, 2)])
@pytest.mark.parametrize("frozen", [None, "weight", "bias"])
def test_linear_layers_are_measured(mode: str, tokens: tuple[int, ...], frozen: str | None) -> None:
    model, inputs, labels = Means(nn.Linear(4, 5)), numbers(*tokens, 4), batch()[1]
    if frozen:
        getattr(model.layer, frozen).requires_grad_(False)
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(inputs), labels).mean().backward()
    assert_close(watched.moments(), loop(model, inputs, labels, per_sample, part=""), 1e-10)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert (parameter.grad - watched.moments()[name].mean).abs().max() < 1e-12
