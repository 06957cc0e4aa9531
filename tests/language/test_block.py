import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import AutoConfig

from rectify.language.block import empty_block, extract_block, load_block, read_block
from rectify.language.families import FAMILIES as FAMILY_TABLE
from rectify.language.weights import describe
from rectify.runtime import generator
from tests.helpers.decoder_layers import reference
from tests.helpers.tiny_checkpoints import (
    EVERY_FAMILY,
    FAMILIES,
    LAYERS,
    SIZES,
    TOKENS,
    WIDTH,
    error_of,
    made_checkpoint,
    rewritten,
    sharded,
)


@pytest.fixture(params=EVERY_FAMILY)
def any_checkpoint(request, tmp_path):
    return made_checkpoint(tmp_path / "tiny", **FAMILIES[request.param])


@pytest.fixture
def checkpoint(tmp_path):
    return made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])


@pytest.fixture
def tokens():
    return torch.randn(2, TOKENS, WIDTH, generator=generator(0, "tokens"))


def layer_tensors(folder: Path, layer: int) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        before, mark, after = name.partition(f".{layer}.")
        if mark and before.endswith(("layers", "h")):
            found[after] = tensor
    return found


def final_norm_tensors(folder: Path) -> dict[str, torch.Tensor]:
    config = json.loads((folder / "config.json").read_text())
    norm = FAMILY_TABLE[config["model_type"]].norm
    found = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        *before, last, part = name.split(".")
        if last == norm and not any(piece.isdigit() for piece in before):
            found[part] = tensor
    return found


def test_a_block_equals_the_reference_without_positions_and_mask(any_checkpoint, tokens):
    config = json.loads((any_checkpoint / "config.json").read_text())
    weights = {name: w.double() for name, w in layer_tensors(any_checkpoint, 1).items()}
    expected = reference(tokens.double(), weights, config)
    # transformers' RMSNorm computes in float32 whatever it is given: hence the tolerance.
    torch.testing.assert_close(
        load_block(any_checkpoint, 1)(tokens).double(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_token_changes_the_first_output(any_checkpoint, tokens, attention):
    block = with_attention(load_block(any_checkpoint, 0), attention)
    changed = tokens.clone()
    changed[:, -1] *= -1
    assert (block(changed)[:, 0] - block(tokens)[:, 0]).abs().max() > 1e-3


def test_the_order_of_the_tokens_does_not_matter(any_checkpoint, tokens):
    block = load_block(any_checkpoint, 0)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])


def with_attention(block, implementation):
    if implementation == "sdpa":
        implementation = FAMILY_TABLE[block.family].kernel
    for part in block.modules():
        if hasattr(part, "config"):
            part.config._attn_implementation = implementation
    return block


LENGTHS = (TOKENS, 4, 1)


def padded(lengths=LENGTHS):
    """Return tokens with noise, large at times, where there is no token, and the mask of it."""
    tokens = torch.randn(len(lengths), TOKENS, WIDTH, generator=generator(1, "tokens"))
    padding = torch.arange(TOKENS) >= torch.tensor(lengths)[:, None]
    tokens[padding] *= 100
    return tokens, padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing_at_the_tokens(any_checkpoint, attention):
    """The oracle: each sample alone, cut to its length; in outputs and gradients."""
    block = with_attention(load_block(any_checkpoint, 1), attention)
    tokens, padding = padded()
    leaf = tokens.clone().requires_grad_()
    outputs = block(leaf, padding)
    outputs[~padding].square().sum().backward()
    for sample, length in enumerate(LENGTHS):
        alone = tokens[sample : sample + 1, :length].clone().requires_grad_()
        expected = block(alone)
        expected.square().sum().backward()
        torch.testing.assert_close(outputs[sample, :length], expected[0], rtol=1e-5, atol=1e-5)
        scale = alone.grad.abs().max()
        torch.testing.assert_close(
            leaf.grad[sample, :length] / scale, alone.grad[0] / scale, rtol=1e-4, atol=1e-5
        )
    assert not leaf.grad[padding].any()


def test_padding_may_be_anywhere(any_checkpoint):
    block = load_block(any_checkpoint, 1)
    tokens, padding = padded()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    shuffled = block(tokens[:, order], padding[:, order])
    expected = block(tokens, padding)[:, order]
    torch.testing.assert_close(shuffled[~padding[:, order]], expected[~padding[:, order]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_changes_nothing_in_half_precision(any_checkpoint, attention, dtype):
    block = with_attention(load_block(any_checkpoint, 1), attention)
    tokens, padding = padded()
    tokens = tokens.clamp(-8, 8).to(dtype)
    outputs = block(tokens, padding)
    other = block(torch.where(padding[..., None], -tokens, tokens), padding)
    assert torch.equal(outputs[~padding], other[~padding])
    for sample, length in enumerate(LENGTHS):
        alone = block(tokens[sample : sample + 1, :length])[0]
        torch.testing.assert_close(outputs[sample, :length], alone, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_changes_nothing_under_autocast(any_checkpoint, attention):
    block = with_attention(load_block(any_checkpoint, 1), attention)
    tokens, padding = padded((TOKENS, 4, 0))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = block(tokens, padding)
        other = block(torch.where(padding[..., None], -tokens, tokens), padding)
    assert torch.equal(outputs[~padding], other[~padding])
    assert outputs.isfinite().all()  # also of the sample of padding alone


def test_no_padding_is_no_mask(any_checkpoint, tokens):
    block = load_block(any_checkpoint, 1)
    nowhere = torch.zeros(tokens.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(block(tokens, nowhere), block(tokens))


def test_extracted_tensors_are_those_of_the_checkpoint_bit_for_bit(any_checkpoint, tmp_path):
    extract_block(any_checkpoint, 2, tmp_path / "block.safetensors")
    source, written = layer_tensors(any_checkpoint, 2), load_file(tmp_path / "block.safetensors")
    norm = {f"final_norm.{name}": w for name, w in final_norm_tensors(any_checkpoint).items()}
    assert (source | norm).keys() == written.keys()
    assert all(torch.equal(tensor, written[name]) for name, tensor in (source | norm).items())
    block = read_block(tmp_path / "block.safetensors")
    assert all(torch.equal(source[n], w) for n, w in block.decoder.state_dict().items())


def test_an_extracted_block_says_what_it_is(checkpoint, tmp_path, tokens):
    extract_block(checkpoint, 2, tmp_path / "block.safetensors")
    block = read_block(tmp_path / "block.safetensors")
    assert (block.family, block.language, block.layer, block.hidden) == ("llama", "tiny", 2, WIDTH)
    assert torch.equal(block(tokens), load_block(checkpoint, 2)(tokens))


def test_an_extracted_block_knows_the_revision_of_its_checkpoint(checkpoint, tmp_path):
    (checkpoint / "fetched.json").write_text('{"commit": "0123abcd"}')
    extract_block(checkpoint, 2, tmp_path / "block.safetensors")
    with safe_open(tmp_path / "block.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["block"])
    assert facts["revision"] == "0123abcd"
    assert facts["config"]["hidden_size"] == WIDTH
    assert len(facts["sha256"]) == 64


def test_extracting_twice_writes_the_same_bytes(checkpoint, tmp_path):
    extract_block(checkpoint, 0, tmp_path / "one.safetensors")
    extract_block(checkpoint, 0, tmp_path / "two.safetensors")
    one, two = (tmp_path / "one.safetensors"), (tmp_path / "two.safetensors")
    assert one.read_bytes() == two.read_bytes()


def test_half_precision_is_kept_in_the_file_and_computed_in_float32(checkpoint, tmp_path, tokens):
    halves = {n: t.bfloat16() for n, t in load_file(checkpoint / "model.safetensors").items()}
    save_file(halves, checkpoint / "model.safetensors")
    extract_block(checkpoint, 0, tmp_path / "block.safetensors")
    written = load_file(tmp_path / "block.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert read_block(tmp_path / "block.safetensors")(tokens).dtype == torch.float32


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_a_block_in_half_precision_computes_as_its_float32_copy(any_checkpoint, tokens, stored):
    path = any_checkpoint / "model.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in load_file(path).items()}, path)
    block, copied = load_block(any_checkpoint, 1), load_block(any_checkpoint, 1).float()
    assert {parameter.dtype for parameter in block.parameters() if parameter.ndim > 1} == {stored}
    gradients = []
    for model in (block, copied):
        leaf = tokens.clone().requires_grad_()
        model(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)
    assert torch.equal(block(tokens), copied(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(tokens), copied(tokens))
        assert torch.equal(block(tokens.bfloat16()), copied(tokens.bfloat16()))


def test_a_block_is_frozen_and_stays_in_evaluation_mode(any_checkpoint, tokens):
    block = load_block(any_checkpoint, 0)
    torch.nn.Sequential(block).train()
    assert not any(parameter.requires_grad for parameter in block.parameters())
    assert not any(module.training for module in block.modules())
    leaf = tokens.requires_grad_()
    block(leaf).square().sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_a_copy_can_be_made_trainable(checkpoint, tokens):
    block = load_block(checkpoint, 0)
    tuned = copy.deepcopy(block).requires_grad_(True)
    tuned(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in tuned.parameters())
    assert not any(parameter.requires_grad for parameter in block.parameters())


def shards_without(folder: Path, layer: int) -> set[Path]:
    places = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    needed = {file for name, file in places.items() if f".{layer}." in name}
    return {path for path in folder.glob("model-*.safetensors") if path.name not in needed}


def test_only_the_shards_of_the_layer_are_read(checkpoint, tokens):
    expected = load_block(checkpoint, 1)(tokens)
    others = shards_without(sharded(checkpoint), 1)
    assert others
    for number, shard in enumerate(sorted(others)):
        shard.write_bytes(b"garbage") if number % 2 else shard.unlink()
    assert torch.equal(load_block(checkpoint, 1)(tokens), expected)


def test_a_pickled_checkpoint_gives_the_same_block(any_checkpoint, tokens):
    expected, facts = load_block(any_checkpoint, 1)(tokens), describe(any_checkpoint)
    torch.save(
        load_file(any_checkpoint / "model.safetensors"), any_checkpoint / "pytorch_model.bin"
    )
    (any_checkpoint / "model.safetensors").unlink()
    assert torch.equal(load_block(any_checkpoint, 1)(tokens), expected)
    assert describe(any_checkpoint) == facts


def test_a_pickled_checkpoint_in_shards_gives_the_same_block(any_checkpoint, tokens):
    expected, facts = load_block(any_checkpoint, 1)(tokens), describe(any_checkpoint)
    tensors = load_file(any_checkpoint / "model.safetensors")
    (any_checkpoint / "model.safetensors").unlink()
    places = {
        name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin"
        for number, name in enumerate(sorted(tensors))
    }
    for file in set(places.values()):
        part = {name: tensors[name].clone() for name in tensors if places[name] == file}
        torch.save(part, any_checkpoint / file)
    index = any_checkpoint / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert torch.equal(load_block(any_checkpoint, 1)(tokens), expected)
    assert describe(any_checkpoint) == facts


def test_constants_of_old_checkpoints_are_no_weights(tmp_path, tokens):
    for family, name in (
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.1.attn.bias"),
        ("gpt-neox", "gpt_neox.layers.1.attention.masked_bias"),
        ("gpt-neox", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"),
        ("falcon", "transformer.h.1.self_attention.rotary_emb.inv_freq"),
        ("phi", "model.layers.1.self_attn.rotary_emb.inv_freq"),
    ):
        folder = made_checkpoint(tmp_path / name, **FAMILIES[family])
        expected, facts = load_block(folder, 1)(tokens), describe(folder)
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, name: torch.ones(4)}, folder / "model.safetensors")
        assert torch.equal(load_block(folder, 1)(tokens), expected)
        assert describe(folder) == facts


def test_description_counts_what_the_model_has(any_checkpoint):
    model = AutoModelForCausalLM.from_pretrained(any_checkpoint)
    block = load_block(any_checkpoint, 0)
    assert describe(any_checkpoint)._asdict() == {
        "family": model.config.model_type,
        "layers": LAYERS,
        "hidden": WIDTH,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "block_parameters": sum(parameter.numel() for parameter in block.parameters()),
    }


def test_a_block_without_weights_has_the_shapes():
    config = AutoConfig.for_model(**SIZES, **FAMILIES["llama"])
    block = empty_block(config, "tiny")
    assert {parameter.device.type for parameter in block.parameters()} == {"meta"}
    assert (
        sum(parameter.numel() for parameter in block.parameters()) == 4 * 32**2 + 3 * 32 * 48 + 64
    )
    assert (block.hidden, block.final_norm) == (WIDTH, None)


# --- the language model's own final norm ---


def has_final_norm(folder: Path) -> bool:
    return json.loads((folder / "config.json").read_text()).get("do_layer_norm_before", True)


def both_blocks(folder: Path, file: Path) -> list:
    extract_block(folder, 1, file)
    return [load_block(folder, 1), read_block(file)]


def test_the_final_norm_is_that_of_the_model(any_checkpoint, tmp_path, tokens):
    model = AutoModel.from_pretrained(any_checkpoint)
    own = getattr(model, "decoder", model)
    name = FAMILY_TABLE[model.config.model_type].norm
    for block in both_blocks(any_checkpoint, tmp_path / "block.safetensors"):
        if not has_final_norm(any_checkpoint):
            assert block.final_norm is None
            continue
        assert not any(parameter.requires_grad for parameter in block.final_norm.parameters())
        torch.testing.assert_close(block.final_norm(tokens), getattr(own, name)(tokens))


def test_a_norm_that_the_model_does_not_use_is_not_read(tmp_path):
    """OPT 350M has its norms after the layers' parts; transformers leaves out a last one, too."""
    family = "opt 350m, with the norm after and a narrow embedding"
    folder = made_checkpoint(tmp_path / "opt", **FAMILIES[family])
    path, name = folder / "model.safetensors", "model.decoder.final_layer_norm"
    surplus = {f"{name}.weight": torch.full((WIDTH,), 2.0), f"{name}.bias": torch.ones(WIDTH)}
    save_file(load_file(path) | surplus, path)
    for block in both_blocks(folder, tmp_path / "block.safetensors"):
        assert block.final_norm is None
    assert not any("final_norm" in key for key in load_file(tmp_path / "block.safetensors"))


def test_the_final_norm_is_no_part_of_the_block(checkpoint, tmp_path):
    for block in both_blocks(checkpoint, tmp_path / "block.safetensors"):
        assert block.final_norm is block.final_norm
        assert not [name for name in block.state_dict() if not name.startswith("decoder.")]
        assert [name for name, _ in block.named_children()] == ["decoder"]
        tuned = copy.deepcopy(block).requires_grad_(True)
        assert all(parameter.requires_grad for parameter in tuned.parameters())
        assert not tuned.final_norm.weight.requires_grad


def test_the_digest_covers_the_final_norm(checkpoint, tmp_path):
    path = tmp_path / "block.safetensors"
    extract_block(checkpoint, 1, path)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors["final_norm.weight"] += 1
    save_file(tensors, path, metadata)
    assert "the tensors must have the digest" in error_of(read_block, path)


# --- errors, one line each ---


@pytest.mark.parametrize("layer", [-1, LAYERS])
def test_a_layer_out_of_range_is_refused(checkpoint, layer):
    assert error_of(load_block, checkpoint, layer) == (
        f"{checkpoint}: layer must lie in 0..2, got {layer}. Change the layer in the config."
    )


def test_a_folder_without_config_is_refused(tmp_path):
    assert "got no config.json" in error_of(load_block, tmp_path, 0)
    assert "got no config.json" in error_of(describe, tmp_path)


def test_an_unknown_family_is_refused(checkpoint):
    (checkpoint / "config.json").write_text('{"model_type": "whale"}')
    message = error_of(load_block, checkpoint, 0)
    assert f"one of {', '.join(FAMILY_TABLE)}, got 'whale'" in message


def test_a_folder_without_weights_is_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert "must hold model.safetensors or pytorch_model.bin" in error_of(load_block, checkpoint, 0)


def test_a_missing_tensor_is_named(checkpoint):
    rewritten(checkpoint, **{"mlp.up_proj.weight": None})
    message = error_of(load_block, checkpoint, 1)
    assert "layer 1: tensor mlp.up_proj.weight must be (48, 32), got absent" in message


def test_a_renamed_tensor_is_named(checkpoint):
    rewritten(checkpoint, **{"mlp.up_proj.weight": "mlp.w3.weight"})
    assert "mlp.up_proj.weight" in error_of(load_block, checkpoint, 1)
    rewritten(checkpoint, **{"mlp.w3.weight": "mlp.up_proj.weight"})
    rewritten(checkpoint, **{"mlp.up_proj.weight": "a.weight"})
    message = error_of(load_block, checkpoint, 1)
    assert "layer 1: tensor a.weight must be absent, got (48, 32) (2 tensors differ)" in message


def test_a_misshaped_tensor_is_named(checkpoint, tmp_path):
    rewritten(checkpoint, **{"mlp.up_proj.weight": torch.ones(48, 31)})
    for action in (
        load_block,
        lambda c, layer: extract_block(c, layer, tmp_path / "b.safetensors"),
    ):
        message = error_of(action, checkpoint, 1)
        assert "layer 1: tensor mlp.up_proj.weight must be (48, 32), got (48, 31)" in message
    assert not list(tmp_path.glob("*b.safetensors"))


def test_a_mixture_of_experts_is_refused_with_the_reason(checkpoint):
    for settings in ({"model_type": "mixtral"}, {"model_type": "qwen3_moe", "num_experts": 8}):
        (checkpoint / "config.json").write_text(json.dumps({"num_local_experts": 8} | settings))
        message = error_of(load_block, checkpoint, 0)
        assert f"got {settings['model_type']!r}, a mixture of experts" in message
        assert "a choice that jumps. Choose another model." in message


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": "wide"},
        {"num_hidden_layers": None},
        {"rope_scaling": "twice"},
        {"hidden_act": 5},
        {"layer_types": ["full_attention"]},
    ],
)
def test_settings_that_transformers_does_not_take_are_one_line(checkpoint, settings):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    message = error_of(load_block, checkpoint, 0)
    assert message.startswith(f"{checkpoint}: must hold the settings of a llama")
    assert next(iter(settings)).removesuffix("_scaling") in message


@pytest.mark.parametrize("content", ["[]", '"llama"', "3"])
def test_settings_without_names_are_refused(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    assert "config.json: must map names to values, got" in error_of(load_block, checkpoint, 0)


@pytest.mark.parametrize("layer", ["last", "2-1", "1-", "", "-1"])
def test_a_layer_that_is_none_is_refused(checkpoint, layer):
    message = error_of(load_block, checkpoint, layer)
    assert message.startswith("a layer must be an index from 0 on, or some in a row as 30-31, got")


def test_paths_may_be_words(checkpoint, tmp_path, tokens):
    expected = load_block(checkpoint, 1)(tokens)
    assert torch.equal(load_block(str(checkpoint), "1")(tokens), expected)
    extract_block(str(checkpoint), 1, str(tmp_path / "block.safetensors"))
    assert torch.equal(read_block(str(tmp_path / "block.safetensors"))(tokens), expected)
    assert describe(str(checkpoint)) == describe(checkpoint)


@pytest.mark.parametrize("norm", [None, torch.ones(31)])
def test_a_final_norm_that_is_not_as_in_the_model_is_named(checkpoint, tmp_path, norm):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path) | {"model.norm.weight": norm}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    message = error_of(extract_block, checkpoint, 1, tmp_path / "block.safetensors")
    got = "absent" if norm is None else "(31,)"
    assert f"final norm: tensor weight must be (32,), got {got}" in message
    assert not (tmp_path / "block.safetensors").exists()
    with pytest.raises(ValueError, match="final norm: tensor weight must be"):
        _ = load_block(checkpoint, 1).final_norm


@pytest.mark.parametrize("wrapper", ["state_dict", "module", "model"])
def test_tensors_under_a_name_of_a_training_script_are_taken_out(checkpoint, tokens, wrapper):
    expected, facts = load_block(checkpoint, 1)(tokens), describe(checkpoint)
    path = checkpoint / "model.safetensors"
    notes = {"global_steps": 3, "lr": 0.1, "optimizer": {"state": {0: torch.ones(2)}}}
    torch.save({wrapper: load_file(path), **notes}, checkpoint / "pytorch_model.bin")
    path.unlink()
    assert torch.equal(load_block(checkpoint, 1)(tokens), expected)
    assert describe(checkpoint) == facts


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_file_is_named(checkpoint, kept):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: must be an intact file" in error_of(load_block, checkpoint, 0)


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_pickle_is_named(checkpoint, kept):
    file = checkpoint / "pytorch_model.bin"
    torch.save(load_file(checkpoint / "model.safetensors"), file)
    (checkpoint / "model.safetensors").unlink()
    file.write_bytes(file.read_bytes()[:kept])
    assert f"{file}: must be an intact file" in error_of(load_block, checkpoint, 0)


def test_an_index_without_its_map_is_named(checkpoint):
    index = sharded(checkpoint) / "model.safetensors.index.json"
    index.write_text("{}")
    assert error_of(load_block, checkpoint, 0).startswith(f"{index}: must have a weight_map")


def test_a_tensor_that_is_only_in_the_index_is_named(checkpoint):
    index = sharded(checkpoint) / "model.safetensors.index.json"
    file = json.loads(index.read_text())["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    tensors = load_file(checkpoint / file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, checkpoint / file)
    message = error_of(load_block, checkpoint, 1)
    assert "layer 1: tensor mlp.up_proj.weight must be (48, 32), got absent" in message


def test_a_missing_shard_of_the_layer_is_named(checkpoint):
    sharded(checkpoint)
    needed = set(checkpoint.glob("model-*.safetensors")) - shards_without(checkpoint, 1)
    for shard in needed:
        shard.unlink()
    assert f"{checkpoint}/model-0" in error_of(load_block, checkpoint, 1)


def test_a_file_of_other_tensors_is_no_block(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "must be a block from extract-block" in error_of(read_block, tmp_path / "x.safetensors")


def test_a_changed_block_file_is_refused(checkpoint, tmp_path):
    path = tmp_path / "block.safetensors"
    extract_block(checkpoint, 0, path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "the tensors must have the digest" in error_of(read_block, path)


def test_an_untrained_layer_is_drawn_tensor_by_tensor(any_checkpoint, tmp_path):
    extract_block(any_checkpoint, 1, tmp_path / "drawn.safetensors", untrained=3)
    extract_block(any_checkpoint, 1, tmp_path / "trained.safetensors")
    found, trained = (read_block(tmp_path / f"{n}.safetensors") for n in ("drawn", "trained"))
    unit = 0.0 if found.family.startswith("gemma") else 1.0
    for name, tensor in found.decoder.state_dict().items():
        assert tensor.shape == trained.decoder.state_dict()[name].shape
        if tensor.ndim == 1:
            assert tensor.unique().tolist() == [unit if name.endswith("weight") else 0.0]
        else:
            draws = generator(3, "untrained", "layer 1", name)
            expected = torch.nn.init.trunc_normal_(
                torch.empty(tensor.shape), std=0.02, generator=draws
            )
            assert torch.equal(tensor, expected)
    for name, tensor in found.final_norm.state_dict().items() if found.final_norm else ():
        assert tensor.unique().tolist() == [unit if name == "weight" else 0.0]
