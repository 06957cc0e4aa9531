"""Every kind of vision model as a trunk: against the model itself, whole and in its parts."""

import re

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import gradient_moments
from rectify.rectified import auxiliary, export, insert, load_trainable_state, trainable_state
from rectify.runtime import generator
from rectify.trunks.features import block_features
from rectify.trunks.kinds import as_trunk
from rectify.trunks.timm_trunk import HEAD
from rectify.trunks.trunk import Trunk, width_at
from tests.helpers.toy_trunk import ToyTrunk, toy_inputs
from tests.helpers.vision_models import (
    DEPTH,
    HUGGING_FACE,
    KINDS,
    TIMM,
    WIDTHS,
    pictures,
    timm_model,
    vision_model,
)

EVERY = pytest.mark.parametrize("kind", KINDS)
NO_CLASSES = {name for name in HUGGING_FACE if "Model" in name or name == "DINOv3"}


def parts_of(outputs: object) -> dict[str, Tensor]:
    """Return the tensors of a model's outputs by name."""
    if isinstance(outputs, Tensor):
        return {"logits": outputs}
    return {name: part for name, part in outputs.items() if isinstance(part, Tensor)}


def assert_same(left: object, right: object) -> None:
    left, right = parts_of(left), parts_of(right)
    assert left.keys() == right.keys()
    for name, part in left.items():
        assert torch.equal(part, right[name]), name


@EVERY
def test_the_trunk_equals_the_models_own_forward_bit_for_bit(kind: str) -> None:
    model, images = vision_model(kind), pictures()
    trunk = as_trunk(model)
    assert isinstance(trunk, Trunk)
    assert trunk.plain is model
    assert list(trunk.blocks) == [f"{index}" for index in range(DEPTH)]
    assert_same(trunk(images), model(images))
    tokens = trunk.embed(images)
    for index in range(DEPTH):
        assert tokens.values.shape[::2] == (3, width_at(trunk, index))
        tokens = trunk.run(tokens, index, index + 1)
    assert tokens.values.shape[::2] == (3, trunk.dim) == (3, width_at(trunk, DEPTH))
    assert_same(trunk.decode(tokens), model(images))


@EVERY
def test_the_trunk_trains_as_the_model_does(kind: str) -> None:
    """With dropout and stochastic depth, from the same random numbers."""
    model, images = vision_model(kind).train(), pictures()
    trunk = as_trunk(model)
    torch.manual_seed(0)
    expected = model(images)
    torch.manual_seed(0)
    assert_same(trunk(images), expected)


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_images_may_be_given_by_name(kind: str) -> None:
    model = vision_model(kind)
    assert_same(as_trunk(model)({"pixel_values": pictures()}), model(pixel_values=pictures()))


@pytest.mark.parametrize("kind", ["ViT", "Dinov2", "Siglip"])
def test_eager_attention_is_followed_too(kind: str) -> None:
    model = vision_model(kind)
    model.set_attn_implementation("eager")
    assert_same(as_trunk(model)(pictures()), model(pictures()))


def bridge_by_hand(bridge: nn.Module, block: nn.Module, tokens: Tensor) -> Tensor:
    middle = block(tokens @ bridge.up.weight.T)
    middle = middle / (middle.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    return middle @ bridge.down.weight.T


@EVERY
def test_a_layer_is_inserted_at_every_position(kind: str, block: nn.Module) -> None:
    images = pictures()
    for position in range(DEPTH + 1):
        model = insert(vision_model(kind), block, position).eval()
        trunk = model.trunk
        tokens = trunk.run(trunk.embed(images), 0, position)
        bridged = bridge_by_hand(model.bridge, block, tokens.values)
        expected = trunk.decode(trunk.run(tokens._replace(values=bridged), position, DEPTH))
        found = parts_of(model(images))
        for name, part in parts_of(expected).items():
            torch.testing.assert_close(found[name], part)
            assert not torch.allclose(part, parts_of(trunk(images))[name])


@EVERY
def test_the_second_path_is_dropped_at_test_and_in_the_exported_model(
    kind: str, block: nn.Module
) -> None:
    images, plain = pictures(), vision_model(kind)
    model = auxiliary(vision_model(kind), block)
    torch.manual_seed(0)
    main, second = model.train()(images)
    torch.manual_seed(0)
    assert_same(main, plain.train()(images))
    assert parts_of(second).keys() == parts_of(main).keys()
    name = next(iter(parts_of(main)))
    assert not torch.allclose(parts_of(second)[name], parts_of(main)[name])
    other = vision_model(kind, seed=1)
    other.load_state_dict(export(model), strict=True)
    assert_same(other(images), model.eval()(images))
    again = auxiliary(vision_model(kind, seed=2), block)
    load_trainable_state(again, trainable_state(model), "state")
    assert_same(again.eval()(images), model(images))


READ = {
    "distilled": ("head_drop", "input"),
    "siglip": ("attn_pool", "output"),
    "SiglipVisionModel": ("head", "output"),
    **dict.fromkeys(("Dinov2", "Dinov2 with registers", "Siglip", "CLIP"), ("classifier", "input")),
}
"""Where a kind that does not read the class token has what it classifies by; else `FC_NORM`."""
FC_NORM = ("fc_norm", "input")
TOKEN = {*NO_CLASSES, "ViT", "DeiT"} - {"SiglipVisionModel"}


@EVERY
def test_the_features_of_each_block_are_what_the_model_classifies_by(kind: str) -> None:
    """Against hooks: on the blocks, or on what follows them when the later ones are left out."""
    model, images, seen = vision_model(kind), pictures(), []
    trunk = as_trunk(model)
    if kind == "swin":
        with pytest.raises(ValueError, match=r"one width, got \(8, 16, 16\) of Swin's stages\."):
            block_features(model, images)
        return
    features = block_features(model, images)
    assert features.shape[:2] == (DEPTH, 3)

    def read(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output if where == "output" else inputs[0])

    def first(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output[:, 0])

    if kind in TOKEN or (getattr(model, "global_pool", "") == "token" and kind not in READ):
        for part in trunk.blocks.values():
            part.register_forward_hook(first)
        model(images)
        assert torch.equal(features, torch.stack(seen))
        return
    name, where = READ.get(kind, FC_NORM)
    model.get_submodule(name).register_forward_hook(read)
    for index in range(DEPTH):
        seen.clear()
        trunk.decode(trunk.run(trunk.embed(images), 0, index + 1))
        torch.testing.assert_close(features[index], sum(seen) / len(seen))


SEVEN = {
    "vit_base_patch16_siglip_224": {},
    "vit_base_patch16_siglip_gap_224": {},
    "vit_base_patch16_rpn_224": {},
    "vit_wee_patch16_reg1_gap_256": {},
    "vit_medium_patch16_reg4_gap_256": {},
    "vit_tiny_patch16_224": {"class_token": False, "global_pool": "avg"},
    "vit_small_patch16_224": {"global_pool": "avg"},
}


@pytest.mark.parametrize(("name", "overrides"), SEVEN.items())
def test_no_feature_is_a_token_that_no_loss_reaches(
    name: str, overrides: dict[str, object]
) -> None:
    """A feature depends on what the last block says of every patch; the class token may be dead."""
    torch.manual_seed(0)
    model = timm_model(name, **overrides).eval()
    trunk = as_trunk(model)
    tokens = trunk.run(trunk.embed(pictures()), 0, DEPTH)
    values = tokens.values.detach().requires_grad_()
    trunk.representation(tokens._replace(values=values)).square().sum().backward()
    reached = values.grad.abs().sum((0, 2)) > 0
    prefix = model.num_prefix_tokens
    assert reached.tolist() == [False] * prefix + [True] * (len(reached) - prefix)
    expected = model.fc_norm(trunk.representation(tokens))
    assert torch.equal(model.head(expected), model(pictures()))


def test_a_model_that_classifies_every_token_has_no_features() -> None:
    model = timm_model("vit_tiny_patch16_224", global_pool="")
    with pytest.raises(ValueError, match="one vector for each image, got VisionTransformer with"):
        block_features(model, pictures())


def test_an_encoder_without_a_head_has_no_features() -> None:
    from transformers import SiglipVisionConfig
    from transformers.models.siglip.modeling_siglip import SiglipVisionModel

    model = SiglipVisionModel(SiglipVisionConfig(**WIDTHS, vision_use_head=False))
    with pytest.raises(ValueError, match="got SiglipVisionModel without a head"):
        block_features(model, pictures())


def test_a_trunk_that_says_nothing_of_it_has_no_features() -> None:
    with pytest.raises(ValueError, match="must have representation, got ToyTrunk without"):
        block_features(ToyTrunk(), toy_inputs())


def losses_of(outputs: object, labels: Tensor) -> Tensor:
    """One loss per sample: cross entropy, or of an encoder the square of what it gives."""
    parts = parts_of(outputs)
    if "logits" in parts:
        return cross_entropy(parts["logits"], labels, reduction="none")
    return parts["last_hidden_state"].square().mean((1, 2))


@EVERY
def test_the_moments_of_the_blocks_equal_a_loop_over_samples(kind: str) -> None:
    model, images = vision_model(kind).double(), pictures(4).double()
    labels = torch.tensor([0, 1, 2, 3])
    trunk = as_trunk(model)
    whole = getattr(trunk, "whole", ())
    moments = gradient_moments(trunk, images, labels, losses_of, dict(trunk.blocks), whole=whole)
    parameters = {
        f"{name}.{key}": weight
        for name, part in trunk.blocks.items()
        for key, weight in part.named_parameters()
    }
    assert moments.keys() == parameters.keys()
    rows = [
        torch.autograd.grad(
            losses_of(model(images[n : n + 1]), labels[n : n + 1]).sum(), parameters.values()
        )
        for n in range(4)
    ]
    for name, gradients in zip(parameters, zip(*rows, strict=True), strict=True):
        stack = torch.stack(gradients)
        size = stack.abs().max() + 1e-3  # a key's bias has no gradient but rounding
        torch.testing.assert_close(moments[name].mean, stack.mean(0), atol=1e-9 * size, rtol=1e-9)
        variance = stack.var(0, correction=0)
        torch.testing.assert_close(moments[name].variance, variance, atol=1e-9 * size**2, rtol=1e-9)


@EVERY
def test_class_tokens_and_positions_are_not_decayed(kind: str) -> None:
    trunk = as_trunk(vision_model(kind))
    kept, named = trunk.no_weight_decay(), dict(trunk.named_parameters())
    words = ("cls_token", "position_embedding", "pos_embed", "reg_token", "register_tokens")
    found = {name for name in named if any(word in name for word in (*words, "dist_token"))}
    assert found <= kept
    assert found or kind == "swin"
    groups = create_optimizer_v2(trunk, weight_decay=0.1).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not [name for name in kept & named.keys() if id(named[name]) in decayed]
    assert decayed


@pytest.mark.parametrize("kind", TIMM)
def test_a_second_head_of_every_kind_of_timm_decodes_as_the_first(kind: str) -> None:
    trunk = as_trunk(vision_model(kind))
    head, tokens = trunk.second_head(generator(0)).eval(), trunk.embed(pictures())
    tokens = trunk.run(tokens, 0, DEPTH)
    assert not torch.allclose(head(tokens), trunk.decode(tokens))
    own = dict(trunk.vit.named_parameters())
    copied = dict(head.vit.named_parameters())
    assert copied
    assert all(name.startswith(HEAD) for name in copied)
    with torch.no_grad():
        for name, weight in copied.items():
            weight.copy_(own[name])
    assert torch.equal(head(tokens), trunk.decode(tokens))
    layered = create_optimizer_v2(trunk, weight_decay=0.1, layer_decay=0.5).param_groups
    assert len({group["lr_scale"] for group in layered}) > DEPTH


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_a_second_head_of_transformers_decodes_as_the_first(kind: str) -> None:
    trunk = as_trunk(vision_model(kind))
    head = trunk.second_head(generator(0)).eval()
    tokens = trunk.run(trunk.embed(pictures()), 0, DEPTH)
    own, copied = dict(trunk.named_parameters()), dict(head.trunk.named_parameters())
    assert not any(re.search(r"embed|layers?\.\d|pre_layrnorm", name) for name in copied)
    assert not {id(weight) for weight in copied.values()} & {id(w) for w in own.values()}
    if any(weight.ndim > 1 for weight in copied.values()):
        name, first = parts_of(trunk.decode(tokens)).popitem()
        assert not torch.allclose(parts_of(head(tokens))[name], first)
    with torch.no_grad():
        for name, weight in copied.items():
            weight.copy_(own[name])
    assert_same(head(tokens), trunk.decode(tokens))


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_layer_decay_of_transformers_goes_by_the_depth_of_each_parameter(kind: str) -> None:
    trunk = as_trunk(vision_model(kind))
    depths = {}
    for name, parameter in trunk.named_parameters():
        if "embeddings" in name or "pre_layrnorm" in name:
            depths[id(parameter)] = 0
        elif found := re.search(r"layers?\.(\d+)\.", name):
            depths[id(parameter)] = 1 + int(found[1])
        elif re.search(r"(layernorm|\.norm)\.", name) and ".head." not in name:
            depths[id(parameter)] = DEPTH
        else:  # pooler, attention pooling, classifier
            depths[id(parameter)] = DEPTH + 1
    most = max(depths.values())
    for group in create_optimizer_v2(trunk, weight_decay=0.1, layer_decay=0.5).param_groups:
        for parameter in group["params"]:
            assert group["lr_scale"] == 0.5 ** (most - depths.pop(id(parameter)))
    assert depths == {}


def test_a_layer_of_a_run_at_each_stage_of_swin_has_the_width_of_the_tokens(block) -> None:
    model = vision_model("swin")
    widths = [insert(model, block, n).bridge.up.in_features for n in range(DEPTH + 1)]
    assert widths == [8, 8, 16, 16]
    assert auxiliary(model, block).bridge.up.in_features == 16


@pytest.mark.parametrize(
    "model",
    [
        lambda: timm.create_model("resnet18"),
        lambda: timm.create_model("swinv2_tiny_window8_256", img_size=64),
        lambda: timm.create_model("cait_xxs24_224"),
        lambda: nn.TransformerEncoderLayer(8, 2),
    ],
)
def test_a_model_that_cannot_be_taken_apart_is_one_line(model, block) -> None:
    with torch.device("meta"):
        other = model()
    for use in (
        lambda: insert(other, block, "end"),
        lambda: auxiliary(other, block),
        lambda: block_features(other, pictures()),
    ):
        with pytest.raises(ValueError, match="no vision transformer that can be taken") as caught:
            use()
        assert "\n" not in str(caught.value)
        assert type(other).__name__ in str(caught.value)


def test_a_class_that_is_derived_from_a_known_one_is_known() -> None:
    class Mine(timm.models.VisionTransformer):
        pass

    mine = Mine(img_size=32, embed_dim=16, depth=2, num_heads=2, num_classes=3).eval()
    assert torch.equal(as_trunk(mine)(pictures()), mine(pictures()))
