"""A ViT's own parameters: against a loop over samples."""

import pytest

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import assert_close, batch, loop, per_sample, vit


def test_the_whole_vit_can_be_asked_for() -> None:
    for settings in (
        {},
        {"no_embed_class": True, "reg_tokens": 2},
        {"reg_tokens": 1},
        {"class_token": False, "global_pool": "avg"},
    ):
        model, (images, labels) = vit(**settings), batch()
        found = gradient_moments(model, images, labels, per_sample, model)
        assert_close(found, loop(model, images, labels, per_sample, part=""), 1e-10)
        assert {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"} < found.keys()


def test_a_vit_of_dynamic_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a ViT of fixed size, got VisionTransformer"):
        GradientMoments(vit(dynamic_img_size=True))
