"""What is read at each place, against forward passes by hand; and that reading changes nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from rectify.filtering.layout import layout_of
from rectify.filtering.places import recording, vit_attention
from rectify.language.block import Block, load_block
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from tests.helpers.tiny_checkpoints import EVERY_FAMILY, FAMILIES, HEADS, made_checkpoint
from tests.helpers.toy_trunk import ToyTrunk

FRAMES = ("F_E", "F_L1", "F_A", "F_F", "F_L2")


@pytest.fixture(params=EVERY_FAMILY)
def any_block(request, tmp_path) -> Block:
    return load_block(made_checkpoint(tmp_path / "tiny", **FAMILIES[request.param]), 1)


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def inserted(vit, block, position="end", control="frozen", **more) -> nn.Module:
    draws = {"generator": generator(0, "bridge"), "control_generator": generator(0, "control")}
    return insert(vit, block, position, control=control, **draws, **more).eval()


def patches(tokens: Tensor) -> Tensor:
    """Return tokens (images, 1 + 4, dim) without the class token, on their grid of 2 x 2."""
    return tokens[:, 1:].reshape(len(tokens), 2, 2, -1)


def features(model: nn.Module, images: Tensor, **chosen: str) -> dict[str, Tensor]:
    with torch.no_grad(), recording(model, **chosen) as recorded:
        model(images)
    return recorded.features


@pytest.mark.parametrize("position", ["early", "middle", "end"])
def test_reading_changes_no_bit_of_the_output(make_vit, any_block, pictures, position) -> None:
    model = inserted(make_vit(), any_block, position)
    with torch.no_grad():
        before = model(pictures)
        with recording(model):
            during = model(pictures)
        after = model(pictures)
    assert torch.equal(before, during)
    assert torch.equal(before, after)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_precision_of_weights_that_is_cast_changes_nothing(make_vit, block, pictures) -> None:
    model = inserted(make_vit(), block)
    model.bridge.layer.decoder.half()
    with torch.no_grad():
        before = model(pictures)
        with recording(model) as recorded:
            assert torch.equal(model(pictures), before)
    assert set(recorded.features) == {*FRAMES, *(f"block-{n}" for n in range(4))}


def test_hooks_go_even_after_an_error(make_vit) -> None:
    vit = make_vit()
    with pytest.raises(AssertionError), recording(vit):
        vit(torch.zeros(1, 3, 5, 5))
    assert not any(module._forward_hooks for module in vit.modules())


def test_the_places_are_those_of_a_pass_by_hand(make_vit, any_block, pictures) -> None:
    model = inserted(make_vit(), any_block, "middle")
    found = features(model, pictures)
    trunk, bridge = model.trunk, model.bridge
    with torch.no_grad():
        tokens = trunk.embed(pictures)
        for index in range(2):
            tokens = trunk.run(tokens, index, index + 1)
            assert torch.equal(found[f"block-{index}"], patches(tokens.values))
        assert torch.equal(found["F_E"], patches(tokens.values))
        up = bridge.up(tokens.values)
        assert torch.equal(found["F_L1"], patches(up))
        layer = bridge.layer(up)
        assert torch.equal(found["F_F"], patches(layer))
        down = bridge.down(bridge.tokenwise(layer))
        assert torch.equal(found["F_L2"], patches(down))
        assert "F_S" not in found
        tokens = trunk.run(tokens._replace(values=down), 2, 3)
        assert torch.equal(found["block-2"], patches(tokens.values))


@pytest.mark.parametrize(("position", "before"), [("early", 0), ("middle", 2), ("end", 4)])
def test_after_a_skip_is_what_goes_on_in_the_vit(
    make_vit, block, pictures, position, before
) -> None:
    model, entered = inserted(make_vit(), block, position, residual=True), []
    following = [*model.trunk.vit.blocks, model.trunk.vit.norm][before]
    following.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    found = features(model, pictures)
    assert torch.equal(found["F_S"], patches(entered[0]))
    assert torch.equal(found["F_S"], found["F_E"] + found["F_L2"])


def rest(block: Block, stream: Tensor, before: Tensor) -> Tensor:
    """Return what a layer makes of the tokens after its attention, by its own norms and MLP.

    Where both run side by side the MLP takes the tokens that the layer takes, ``before``.
    """
    layer, family = block.decoder, block.family
    if family == "bloom":
        return layer.mlp(layer.post_attention_layernorm(stream), stream)
    if family == "gpt2":
        return stream + layer.mlp(layer.ln_2(stream))
    if family in ("gemma2", "gemma3_text"):
        mlp = layer.mlp(layer.pre_feedforward_layernorm(stream))
        return stream + layer.post_feedforward_layernorm(mlp)
    if family == "olmo2":
        return stream + layer.post_feedforward_layernorm(layer.mlp(stream))
    if family == "opt":
        if layer.do_layer_norm_before:
            return stream + layer.fc2(relu(layer.fc1(layer.final_layer_norm(stream))))
        normed = layer.self_attn_layer_norm(stream)
        return layer.final_layer_norm(normed + layer.fc2(relu(layer.fc1(normed))))
    if family == "gpt_neox":
        after = before if layer.use_parallel_residual else stream
        return stream + layer.mlp(layer.post_attention_layernorm(after))
    if hasattr(layer, "ln_mlp"):  # Falcon 40B
        return stream + layer.mlp(layer.ln_mlp(before))
    if getattr(layer, "post_attention_layernorm", None) is None:
        return stream + layer.mlp(layer.input_layernorm(before))
    return stream + layer.mlp(layer.post_attention_layernorm(stream))


def test_the_mlp_goes_on_from_the_stream_after_attention(make_vit, any_block, pictures) -> None:
    found = features(inserted(make_vit(), any_block), pictures)
    with torch.no_grad():
        expected = rest(any_block, found["F_A"], found["F_L1"])
    torch.testing.assert_close(found["F_F"], expected, rtol=1e-4, atol=1e-4)


def test_the_update_is_what_attention_adds_to_the_stream(make_vit, any_block, pictures) -> None:
    model = inserted(make_vit(), any_block)
    stream = features(model, pictures)
    update = features(model, pictures, after_attention="update")
    added = stream["F_A"] - stream["F_L1"]
    torch.testing.assert_close(update["F_A"], added, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(update["F_A"], stream["F_A"])
    assert all(torch.equal(update[place], stream[place]) for place in FRAMES if place != "F_A")


def fused(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return queries and keys (images, tokens, heads, dim) of families with one matrix of both."""
    layer, family = block.decoder, block.family
    if family == "gpt2":
        both = layer.attn.c_attn(layer.ln_1(tokens)).unflatten(-1, (3, HEADS, -1))
        return both[..., 0, :, :], both[..., 1, :, :]
    if family == "phi3":
        both = layer.self_attn.qkv_proj(layer.input_layernorm(tokens))
        heads = both.unflatten(-1, (-1, layer.self_attn.head_dim))
        return heads[..., :HEADS, :], heads[..., HEADS : HEADS + 2, :]
    if family not in ("bloom", "falcon", "gpt_neox"):
        return None
    attention = layer.attention if family == "gpt_neox" else layer.self_attention
    before = layer.ln_attn if hasattr(layer, "ln_attn") else layer.input_layernorm
    groups = attention.num_kv_heads if family == "falcon" else HEADS  # each: queries, key, value
    both = attention.query_key_value(before(tokens))
    heads = both.unflatten(-1, (groups, HEADS // groups + 2, -1))
    return heads[..., :-2, :].flatten(2, 3), heads[..., -2, :]


def queries_and_keys(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return (images, heads, tokens, dim) by hand, from the weights."""
    layer, family = block.decoder, block.family
    pair = fused(block, tokens)
    if pair is None:
        attention, config = layer.self_attn, layer.self_attn.config
        names = ("input_layernorm", "self_attn_layer_norm")
        before = next((getattr(layer, n) for n in names if hasattr(layer, n)), nn.Identity())
        is_after = family == "opt" and not layer.do_layer_norm_before
        normed = tokens if is_after else before(tokens)
        pair = attention.q_proj(normed), attention.k_proj(normed)
        if family == "olmo":
            pair = [part.clamp(-config.clip_qkv, config.clip_qkv) for part in pair]
        if family == "olmo2":
            pair = attention.q_norm(pair[0]), attention.k_norm(pair[1])
        pair = [part.unflatten(-1, (-1, attention.head_dim)) for part in pair]
    if family in ("qwen3", "gemma3_text"):
        pair = layer.self_attn.q_norm(pair[0]), layer.self_attn.k_norm(pair[1])
    query, key = (part.transpose(1, 2) for part in pair)
    if getattr(getattr(layer, "self_attn", None), "qk_layernorm", False):  # Phi, StableLM 2
        query, key = layer.self_attn.q_layernorm(query), layer.self_attn.k_layernorm(key)
    return query, key.repeat_interleave(query.shape[1] // key.shape[1], 1)


def test_the_layer_s_attention_is_softmax_of_queries_times_keys(
    make_vit, any_block, pictures
) -> None:
    model = inserted(make_vit(), any_block)
    with torch.no_grad(), recording(model) as recorded:
        model(pictures)
        trunk = model.trunk
        up = model.bridge.up(trunk.run(trunk.embed(pictures), 0, 4).values)
        query, key = queries_and_keys(any_block, up)
    scores = query[:, :, :1] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if any_block.family == "gemma2":
        scores = 0.3 * (scores / 0.3).tanh()
    weights = scores.softmax(-1)
    expected = weights[:, :, 0, 1:].unflatten(-1, (2, 2))  # of the class token on the patches
    found = recorded.attention["F_A"]
    assert found.shape == (3, HEADS, 2, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extra", [{}, {"qk_norm": True}, {"reg_tokens": 2}])
def test_the_vit_s_attention_is_that_of_its_unfused_kernel(make_vit, pictures, extra) -> None:
    vit = make_vit(overrides=extra).eval()
    attention, seen = vit.blocks[3].attn, {}
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda m, args, out: seen.update(weights=args[0]))
    with torch.no_grad(), recording(vit) as recorded:
        vit(pictures)
    patches_from = 1 + extra.get("reg_tokens", 0)
    expected = seen["weights"][:, :, 0, patches_from:].unflatten(-1, (2, 2))
    torch.testing.assert_close(recorded.attention["block-3"], expected)
    assert recorded.features["F_E"].shape == (3, 2, 2, 16)


def test_attention_sums_to_one_over_all_tokens(make_vit) -> None:
    tokens = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    weights = vit_attention(make_vit().blocks[0].attn, tokens)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 5))


def test_a_plain_vit_and_an_auxiliary_model_have_the_places_of_the_vit(
    make_vit, block, pictures
) -> None:
    vit = make_vit().eval()
    found = features(vit, pictures)
    assert set(found) == {"F_E", "block-0", "block-1", "block-2", "block-3"}
    assert torch.equal(found["F_E"], found["block-3"])
    expected = as_trunk(vit).run(as_trunk(vit).embed(pictures), 0, 4).values
    assert torch.equal(found["F_E"], patches(expected.detach()))
    both = auxiliary(make_vit(), block, generator=generator(0)).eval()
    assert all(torch.equal(features(both, pictures)[place], found[place]) for place in found)


@pytest.mark.parametrize(
    ("control", "missing"),
    [
        *((name, set()) for name in ("random", "scratch", "tuned", "shuffled", "matched")),
        *((name, {"F_A", "F_F"}) for name in ("adapter", "norm", "mlp")),
    ],
)
def test_a_control_has_the_places_that_it_has_modules_for(
    make_vit, block, pictures, control, missing
) -> None:
    found = features(inserted(make_vit(), block, control=control), pictures)
    assert {place for place in found if place[0] == "F"} == set(FRAMES) - missing


def test_a_vit_without_class_token_has_no_attention(make_vit, pictures) -> None:
    vit = make_vit(overrides={"class_token": False, "global_pool": "avg"}).eval()
    with torch.no_grad(), recording(vit) as recorded:
        vit(pictures)
    assert recorded.attention == {}
    assert recorded.features["F_E"].shape == (3, 2, 2, 16)


def test_another_trunk_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"of timm's ViT or of a trunk .* of points, got ToyTrunk"):
        layout_of(ToyTrunk())
