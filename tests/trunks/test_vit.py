import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2

from rectify.runtime import generator
from rectify.trunks.trunk import Tokens
from rectify.trunks.vit import ViT, create_vit

CLIP = {"frames": 6, "channels": 3}


@pytest.mark.parametrize(
    "changes", [{}, {"overrides": {"class_token": False, "global_pool": "avg"}}]
)
def test_the_trunk_equals_timms_forward_bit_for_bit(make_vit, changes):
    vit = make_vit(channels=3, **changes).eval()
    trunk, pixels = ViT(vit), torch.rand(3, 3, 16, 16)
    assert torch.equal(trunk(pixels), vit(pixels))
    tokens = trunk.embed(pixels)
    for index in range(len(trunk.blocks)):
        tokens = trunk.run(tokens, index, index + 1)
    assert torch.equal(trunk.decode(tokens), vit(pixels))


def test_the_trunk_has_the_width_and_the_blocks_of_its_vit(make_vit):
    vit = make_vit()
    trunk = ViT(vit)
    assert trunk.dim == 16
    assert trunk.plain is vit
    assert list(trunk.blocks) == ["0", "1", "2", "3"]
    assert list(trunk.blocks.values()) == list(vit.blocks)


def test_running_keeps_padding_and_context(make_vit):
    trunk = ViT(make_vit()).eval()
    tokens = Tokens(torch.rand(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool), "context")
    after = trunk.run(tokens, 1, 3)
    expected = trunk.vit.blocks[2](trunk.vit.blocks[1](tokens.values))
    assert torch.equal(after.values, expected)
    assert after.padding is tokens.padding
    assert after.context == "context"
    assert torch.equal(trunk.run(tokens, 2, 2).values, tokens.values)


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_timm_groups_the_parameters_of_the_trunk_as_those_of_its_vit(make_vit, layer_decay):
    def groups(model, prefix):
        names = {parameter: name for name, parameter in model.named_parameters()}
        optimizer = create_optimizer_v2(model, weight_decay=0.05, layer_decay=layer_decay)
        return [
            (group.get("lr_scale"), group["weight_decay"],
             [names[parameter].removeprefix(prefix) for parameter in group["params"]])
            for group in optimizer.param_groups
        ]  # fmt: skip

    vit = make_vit()
    trunk = groups(ViT(vit), "vit.")
    assert trunk == groups(vit, "")
    assert len(trunk) == (2 if layer_decay is None else 12)


@pytest.mark.parametrize(
    "changes", [{}, {"overrides": {"class_token": False, "global_pool": "avg"}}]
)
def test_a_second_head_is_another_draw_of_the_same_head(make_vit, changes):
    trunk = ViT(make_vit(**changes))
    with torch.no_grad():
        trunk.vit.head.weight.mul_(0.001)  # as recipes do
        trunk.vit.head.bias.copy_(torch.arange(5.0))
    head = trunk.second_head(generator(0))
    own = {
        name: w
        for name, w in trunk.vit.named_parameters()
        if name.startswith(("norm.", "fc_norm.", "head."))
    }
    copied = dict(head.vit.named_parameters())
    assert copied.keys() == own.keys()
    for name, weight in copied.items():
        assert weight is not own[name]
        assert weight.requires_grad
        assert torch.equal(weight, own[name]) == (name != "head.weight")
    assert torch.equal(
        copied["head.weight"].flatten().sort().values, own["head.weight"].flatten().sort().values
    )
    again = trunk.second_head(generator(0)).vit.head.weight
    assert torch.equal(again, copied["head.weight"])
    assert not torch.equal(trunk.second_head(generator(1)).vit.head.weight, again)


def test_a_second_head_with_the_first_ones_weights_decodes_as_the_first(make_vit):
    trunk = ViT(make_vit()).eval()
    head, tokens = trunk.second_head(generator(0)).eval(), trunk.embed(torch.rand(3, 1, 16, 16))
    assert not torch.allclose(head(tokens), trunk.decode(tokens))
    with torch.no_grad():
        head.vit.head.weight.copy_(trunk.vit.head.weight)
    assert torch.equal(head(tokens), trunk.decode(tokens))


def test_stochastic_depth_rises_to_the_given_rate(make_vit):
    vit = make_vit(drop_path=0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tiny_patch16_224", 5_717_416),
        ("small_patch16_224", 22_050_664),
        ("base_patch16_224", 86_567_656),
    ],
)
@pytest.mark.parametrize("family", ["vit", "deit"])
def test_the_papers_models_have_the_papers_sizes(family, name, count):
    with torch.device("meta"):
        vit = create_vit(f"{family}_{name}", num_classes=1000, image_size=224)
    assert type(vit) is VisionTransformer
    assert sum(parameter.numel() for parameter in vit.parameters()) == count


def test_a_clip_becomes_one_token_per_patch_and_pair_of_frames(make_vit):
    vit = make_vit(**CLIP)
    clips = torch.rand(2, 6, 3, 16, 16)
    tokens = vit.patch_embed(clips)
    assert tokens.shape == (2, 3 * 4, 16)
    convolution = vit.patch_embed.proj
    for clip in range(2):
        for pair in range(3):
            frames = torch.cat([clips[clip, 2 * pair], clips[clip, 2 * pair + 1]])
            for patch in range(4):
                row, column = 8 * (patch // 2), 8 * (patch % 2)
                pixels = frames[:, row : row + 8, column : column + 8]
                expected = (convolution.weight * pixels).sum((1, 2, 3)) + convolution.bias
                torch.testing.assert_close(tokens[clip, 4 * pair + patch], expected)


def test_the_order_of_frames_matters(make_vit):
    vit = make_vit(**CLIP).eval()
    clips = torch.rand(1, 6, 3, 16, 16)
    assert vit.pos_embed.shape == (1, 13, 16)
    assert not torch.allclose(vit(clips), vit(clips.flip(1)))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("vit_small_patch16_dinov4.lvd1689m", "vit_small_patch16_dinov3"),
        ("deit_bas_distilled_patch16_384.fb_in1k", "deit_base_distilled_patch16_384"),
        ("nothing", "-."),
    ],
)
def test_a_model_that_timm_does_not_know_is_one_line(name, near):
    with pytest.raises(ValueError, match=f"must know the vision transformer, got '{name}'") as got:
        create_vit(name, num_classes=2, image_size=32)
    assert "\n" not in str(got.value)
    assert near in str(got.value).partition("Near names: ")[2]


@pytest.mark.parametrize("name", ["resnet18", "swinv2_tiny_window8_256.ms_in1k", "cait_s24_224"])
def test_a_model_of_timm_that_cannot_be_taken_apart_is_one_line(name):
    with pytest.raises(
        ValueError, match=f"taken apart, got {name}, which is no vision transf"
    ) as got:
        create_vit(name, num_classes=2, image_size=32)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"dept": 3}, "unexpected keyword argument 'dept'"),
        ({"class_token": False}, "Token pooling needs the class token"),
        ({"num_heads": 5}, "got dim should be divisible by num_heads"),
    ],
)
def test_arguments_that_timm_does_not_take_are_one_line(make_vit, overrides, reason):
    with pytest.raises(ValueError, match=f"able to build vit_tiny_patch16_224.*{reason}") as got:
        make_vit(overrides=overrides)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("patch", [None, 0, 2.5, "4"])
def test_a_patch_size_that_is_no_size_is_one_line(patch: object) -> None:
    with pytest.raises(ValueError, match="patch_size must be a whole number from 1 on, got"):
        create_vit(
            "vit_tiny_patch16_224", num_classes=3, image_size=16, overrides={"patch_size": patch}
        )


def test_sizes_that_do_not_fit_are_named(make_vit):
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size 8, got 20"):
        make_vit(image_size=20)
    with pytest.raises(ValueError, match="multiple of patch_size 16, got 100"):
        create_vit("vit_small_patch16_224", num_classes=2, image_size=100)
    with pytest.raises(ValueError, match="frames must be a multiple of 2, got 5"):
        make_vit(frames=5)
