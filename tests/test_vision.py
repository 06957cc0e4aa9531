import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from rectify.vision import block_features, classify, create_vit, embed

CLIP = {"frames": 6, "channels": 3}


@pytest.mark.parametrize(
    "changes", [{}, {"overrides": {"class_token": False, "global_pool": "avg"}}]
)
def test_the_parts_equal_timms_forward_bit_for_bit(make_vit, changes):
    vit = make_vit(channels=3, **changes).eval()
    pixels = torch.rand(3, 3, 16, 16)
    assert torch.equal(classify(vit, vit.blocks(embed(vit, pixels))), vit(pixels))


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


def test_block_features_equal_hooks_on_timms_forward(make_vit):
    vit = make_vit().eval()
    pixels, seen = torch.rand(3, 1, 16, 16), []
    hooks = [
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[:, 0]))
        for block in vit.blocks
    ]
    vit(pixels)
    for hook in hooks:
        hook.remove()
    assert torch.equal(block_features(vit, pixels), torch.stack(seen))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("vit_smal_patch16_224", "vit_small_patch16_224"),
        ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224"),
        ("deit_base_distilled_patch16_384.fb_in1k", "deit_base_patch16_384"),
        ("resnet18", "-."),
    ],
)
def test_a_model_that_is_no_vision_transformer_is_one_line(name, near):
    with pytest.raises(ValueError, match=f"must know the vision transformer, got '{name}'") as got:
        create_vit(name, num_classes=2, image_size=32)
    assert "\n" not in str(got.value)
    assert near in str(got.value).partition("Near names: ")[2]


def test_sizes_that_do_not_fit_are_named(make_vit):
    with pytest.raises(ValueError, match="image_size must be a multiple of patch_size 8, got 20"):
        make_vit(image_size=20)
    with pytest.raises(ValueError, match="multiple of patch_size 16, got 100"):
        create_vit("vit_small_patch16_224", num_classes=2, image_size=100)
    with pytest.raises(ValueError, match="frames must be a multiple of 2, got 5"):
        make_vit(frames=5)
