"""timm's LayerScale: against a loop over samples."""

import pytest
from timm.layers import LayerScale

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import Means, assert_close, batch, loop, numbers, per_sample


@pytest.mark.parametrize("tokens", [(), (3,), (2, 4)])
def test_scales_are_measured(tokens: tuple[int, ...]) -> None:
    model, inputs, labels = Means(LayerScale(5)), numbers(*tokens, 5), batch()[1]
    moments = gradient_moments(model, inputs, labels, per_sample, model)
    assert_close(moments, loop(model, inputs, labels, per_sample, part=""), 1e-10)


def test_a_scale_in_place_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"LayerScale \(not in place\).* got LayerScale with gamma"
    ):
        GradientMoments(LayerScale(5, inplace=True))
