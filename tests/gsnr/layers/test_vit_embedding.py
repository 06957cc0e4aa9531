"""A ViT's own parameters: against a loop over samples."""

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


def test_another_vit_is_measured_as_a_whole() -> None:
    model, (images, labels) = vit(dynamic_img_size=True), batch()
    assert GradientMoments(model).generic == [""]
    found = gradient_moments(model, images, labels, per_sample, model)
    assert_close(found, loop(model, images, labels, per_sample, part=""), 1e-10)
