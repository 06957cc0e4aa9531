"""Meta's format against Hugging Face's; the latter's own cases are in test_block.py."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rectify.language.block import extract_block, load_block, read_block
from rectify.language.captions import caption_features
from rectify.language.files import read_settings, tensor_shapes
from rectify.language.weights import describe
from rectify.runtime import generator
from tests.helpers.tiny_checkpoints import error_of

WIDTH, HEADS, LAYERS, MLP = 32, 4, 3, 48
PARAMS = {"dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "norm_eps": 1e-5, "vocab_size": -1}
TO_META = (
    (r"^model\.", ""),
    (r"input_layernorm", "attention_norm"),
    (r"post_attention_layernorm", "ffn_norm"),
    (r"self_attn\.([qkvo])_proj", r"attention.w\1"),
    (r"mlp\.gate_proj", "feed_forward.w1"),
    (r"mlp\.down_proj", "feed_forward.w2"),
    (r"mlp\.up_proj", "feed_forward.w3"),
    (r"embed_tokens", "tok_embeddings"),
    (r"lm_head", "output"),
)


def meta_name(name: str) -> str:
    for pattern, replacement in TO_META:
        name = re.sub(pattern, replacement, name)
    return name


def unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo what Hugging Face's conversion does to the rows of wq and wk within each head."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Permute as Hugging Face's conversion does: even rows of a head first, then odd ones."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def write_both(folder: Path, kv_heads: int = HEADS) -> tuple[Path, Path]:
    """Write one model in both formats; return the folders of Hugging Face's and of Meta's."""
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS, vocab_size=11,
        num_key_value_heads=kv_heads, num_hidden_layers=LAYERS, rms_norm_eps=1e-5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder / "hf")
    heads = {"q_proj": HEADS, "k_proj": kv_heads}
    tensors = {"rope.freqs": torch.ones(4)}
    for name, weight in model.state_dict().items():
        part = name.split(".")[-2]
        original = unpermuted(weight, heads[part]) if part in heads else weight
        tensors[meta_name(name)] = original.contiguous()
    (folder / "meta").mkdir()
    torch.save(tensors, folder / "meta" / "consolidated.00.pth")
    params = PARAMS if kv_heads == HEADS else PARAMS | {"n_kv_heads": kv_heads, "multiple_of": 256}
    (folder / "meta" / "params.json").write_text(json.dumps(params))
    return folder / "hf", folder / "meta"


@pytest.fixture
def meta(tmp_path):
    return write_both(tmp_path)[1]


@pytest.fixture
def tokens():
    return torch.randn(2, 7, WIDTH, generator=generator(0, "tokens"))


def test_the_test_permutes_as_the_conversion_does():
    weight = torch.randn(WIDTH, WIDTH)
    assert torch.equal(permuted(unpermuted(weight, HEADS), HEADS), weight)
    head = torch.arange(8.0).view(8, 1)
    assert permuted(head, 1).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_metas_format_gives_the_same_block_as_hugging_faces(tmp_path, tokens, kv_heads):
    converted, meta = write_both(tmp_path, kv_heads)
    expected, block = load_block(converted, 1), load_block(meta, 1)
    query = "decoder.self_attn.q_proj.weight"
    assert not torch.equal(expected.state_dict()[query], block.state_dict()[query])
    torch.testing.assert_close(block(tokens), expected(tokens), rtol=0, atol=1e-5)
    assert torch.equal(block.final_norm(tokens), expected.final_norm(tokens))


def test_a_block_extracted_from_metas_format_is_the_same(meta, tokens, tmp_path):
    extract_block(meta, 2, tmp_path / "block.safetensors")
    block = read_block(tmp_path / "block.safetensors")
    assert torch.equal(block(tokens), load_block(meta, 2)(tokens))
    assert (block.family, block.language, block.layer) == ("llama", "meta", 2)


def test_both_formats_are_described_alike(tmp_path):
    converted, meta = write_both(tmp_path)
    assert describe(meta) == describe(converted)


def test_settings_follow_from_params_and_the_shape_of_a_weight(meta):
    assert read_settings(meta) == {
        "model_type": "llama",
        "hidden_size": WIDTH,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "rms_norm_eps": 1e-5,
    }


def test_missing_params_are_named(meta):
    (meta / "params.json").write_text('{"dim": 32, "n_layers": 3}')
    assert "norm_eps, got no n_heads, norm_eps." in error_of(load_block, meta, 0)


CUTS = {"wo": 1, "w2": 1, "wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0}


def cut(folder: Path, parts: int, embedding: int = 1) -> None:
    """Cut a model as Meta does for ``parts`` GPUs (fairscale's column and row parallel linears)."""
    whole = torch.load(folder / "consolidated.00.pth")
    for number in range(parts):
        part = {}
        for name, tensor in whole.items():
            axis = (CUTS | {"tok_embeddings": embedding}).get(name.split(".")[-2])
            slices = [tensor] * parts if axis is None else tensor.chunk(parts, axis)
            part[name] = slices[number].clone()
        torch.save(part, folder / f"consolidated.{number:02d}.pth")


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("embedding", [0, 1])
def test_a_model_in_parallel_parts_is_joined(tmp_path, tokens, kv_heads, embedding):
    _, meta = write_both(tmp_path, kv_heads)
    expected, facts, shapes = load_block(meta, 1), describe(meta), tensor_shapes(meta)
    settings = read_settings(meta)
    params = json.loads((meta / "params.json").read_text())
    cut(meta, 2, embedding)
    assert params["dim"] == WIDTH
    joined = load_block(meta, 1)
    state = expected.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in joined.state_dict().items())
    assert torch.equal(joined.final_norm(tokens), expected.final_norm(tokens))
    if embedding == 0:  # 11 words in parts of 6 and 5: the shapes differ
        shapes.pop("model.embed_tokens.weight")
    assert {name: tensor_shapes(meta)[name] for name in shapes} == shapes
    assert (read_settings(meta), describe(meta)) == (settings, facts)


def changed_part(folder: Path, name: str, change) -> None:
    file = folder / "consolidated.01.pth"
    tensors = torch.load(file)
    tensors[name] = change(tensors[name])
    torch.save({name: t for name, t in tensors.items() if t is not None}, file)


def test_parts_that_cannot_be_joined_are_refused_by_name(meta):
    cut(meta, 2)
    name = "layers.1.attention.wo.weight"
    changed_part(meta, name, lambda tensor: tensor[:, 1:].clone())
    message = error_of(load_block, meta, 1)
    assert "tensor model.layers.1.self_attn.o_proj.weight must be in all 2 parts" in message
    assert "got 2 of (32, 16), (32, 15)" in message
    changed_part(meta, name, lambda tensor: None)
    assert "got 1 of (32, 16)" in error_of(load_block, meta, 1)
    load_block(meta, 0)
    changed_part(meta, "layers.0.ffn_norm.weight", lambda tensor: tensor + 1)
    assert "layers.0.post_attention_layernorm.weight" in error_of(load_block, meta, 0)


def test_a_missing_part_is_named(meta):
    cut(meta, 4)
    (meta / "consolidated.03.pth").unlink()
    assert "layer 1: tensor self_attn.k_proj.weight must be (32, 32), got (24, 32)" in error_of(
        load_block, meta, 1
    )
    (meta / "consolidated.01.pth").unlink()
    assert "must hold consolidated.01.pth" in error_of(load_block, meta, 1)


def test_a_width_that_no_part_tells_is_refused(meta):
    cut(meta, 2)
    changed_part(meta, "layers.0.feed_forward.w1.weight", lambda tensor: None)
    assert "layers.0.feed_forward.w1.weight must be in every part, got 1 of 2" in error_of(
        load_block, meta, 1
    )


def test_params_without_weights_are_refused(meta):
    (meta / "consolidated.00.pth").unlink()
    assert "must hold consolidated.00.pth next to params.json" in error_of(load_block, meta, 0)


def test_a_config_beside_metas_weights_does_not_make_them_hugging_faces(tmp_path, tokens):
    """Rotary pairs lie elsewhere in them, so that captions would have wrong features."""
    converted, meta = write_both(tmp_path)
    expected = load_block(meta, 1)(tokens)
    (meta / "config.json").write_text((converted / "config.json").read_text())
    assert torch.equal(load_block(meta, 1)(tokens), expected)
    assert "must be in Hugging Face format for features" in error_of(
        caption_features, meta, ["a"], 1
    )


def test_a_folder_with_both_formats_is_hugging_faces(tmp_path, tokens):
    converted, meta = write_both(tmp_path)
    expected = load_block(converted, 1)
    for file in meta.iterdir():
        file.rename(converted / file.name)
    found = load_block(converted, 1).state_dict()
    assert all(torch.equal(found[name], one) for name, one in expected.state_dict().items())


@pytest.mark.parametrize("kept", [0, 5, 2000, -1])
def test_a_truncated_file_is_named(meta, kept):
    file = meta / "consolidated.00.pth"
    file.write_bytes(file.read_bytes()[:kept])
    assert error_of(load_block, meta, 0).startswith(f"{file}: must be an intact file of tensors")


def test_one_part_of_a_larger_model_is_refused(meta):
    (meta / "params.json").write_text(json.dumps(PARAMS | {"dim": 2 * WIDTH}))
    assert "input_layernorm.weight must be (64,), got (32,)" in error_of(load_block, meta, 1)


def test_code_in_a_pickle_is_not_run(meta):
    torch.save({"layers.0.feed_forward.w1.weight": Path("x")}, meta / "consolidated.00.pth")
    assert "must be an intact file of tensors" in error_of(load_block, meta, 0)
