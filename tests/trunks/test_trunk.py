import re

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from rectify.trunks import as_trunk
from rectify.trunks.trunk import groups_within
from rectify.trunks.videomae import create_videomae
from rectify.trunks.vit import ViT
from tests.helpers.toy_trunk import ToyTrunk, toy_inputs


def test_a_trunk_is_left_as_it_is(vit):
    for trunk in (ToyTrunk(), ViT(vit)):
        assert as_trunk(trunk) is trunk


def test_the_vits_of_images_and_of_clips_are_wrapped_and_not_copied(vit):
    sizes = {"embed_dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8}
    clips = create_videomae(
        "vit_tiny_patch16_224", num_classes=2, image_size=16, frames=4, overrides=sizes
    )
    for model in (vit, clips):
        assert isinstance(model, VisionTransformer)
        assert as_trunk(model).plain is model


def test_a_model_of_another_kind_is_one_line():
    with pytest.raises(
        ValueError, match=r"got Linear without dim, blocks, embed, run, decode"
    ) as got:
        as_trunk(nn.Linear(2, 2))
    assert "\n" not in str(got.value)
    incomplete = ToyTrunk()
    del incomplete.blocks
    with pytest.raises(ValueError, match=r"got ToyTrunk without blocks: .*give it these parts\."):
        as_trunk(incomplete)


def test_padding_does_not_change_what_a_trunk_gives():
    trunk, inputs = ToyTrunk(), toy_inputs()
    whole = trunk(inputs)["logits"]
    cut = {"words": inputs["words"][1:, :2], "offset": inputs["offset"][1:]}
    torch.testing.assert_close(trunk(cut)["logits"], whole[1:])


def test_groups_of_a_part_match_below_its_name_alone(vit):
    groups = groups_within(r"trunk\.", ViT(vit).group_matcher())
    (pattern, _), (norm, order) = groups["blocks"]
    assert re.match(pattern, "trunk.vit.blocks.3.norm1.weight")[1] == "3"
    assert not re.match(pattern, "vit.blocks.3.norm1.weight")
    assert re.match(norm, "trunk.vit.norm.weight")
    assert not re.match(norm, "trunk.vit.fc_norm.weight")
    assert order == (99999,)
    for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
        assert re.match(groups["stem"], f"trunk.vit.{name}")
    assert not re.match(groups["stem"], "bridge.up.weight")
