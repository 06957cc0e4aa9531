"""Tiny models as a Hugging Face folder and as GGUF, which is written as llama.cpp writes it."""

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.gguf import dequant

from rectify.language import extract_block, load_block, read_block
from rectify.language.captions import caption_features
from rectify.language.families import parse_config
from rectify.language.gguf_format import Reader, read_settings, read_tensors
from rectify.language.tokens import tokenized
from rectify.language.weights import describe
from tests.helpers.packages import MODEL, demo_packages
from tests.helpers.tiny_checkpoints import HEADS, TOKENS, WIDTH, error_of, made_checkpoint

TEXTS = ["grinning face", "cat 12 and dog", "a red  apple", "ab"]
SIZES = {"intermediate_size": 64, "num_key_value_heads": 2, "vocab_size": 300}
LLAMA = {"model_type": "llama", "rms_norm_eps": 0.03, **SIZES}
MODELS = {
    "llama": LLAMA,
    "llama with an own output": {**LLAMA, "tie_word_embeddings": False},
    "qwen2": {"model_type": "qwen2", **SIZES},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, **SIZES},
    "gemma": {"model_type": "gemma", "head_dim": 16, **SIZES},
    "gemma3": {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, **SIZES},
    "gpt2": {"model_type": "gpt2", "n_inner": 64, "vocab_size": 300},
}

# Names as llama.cpp has them, typed from its documents; {n} is the layer.
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{n}.self_attn.q_proj": "blk.{n}.attn_q",
    "model.layers.{n}.self_attn.k_proj": "blk.{n}.attn_k",
    "model.layers.{n}.self_attn.v_proj": "blk.{n}.attn_v",
    "model.layers.{n}.self_attn.o_proj": "blk.{n}.attn_output",
    "model.layers.{n}.self_attn.q_norm": "blk.{n}.attn_q_norm",
    "model.layers.{n}.self_attn.k_norm": "blk.{n}.attn_k_norm",
    "model.layers.{n}.mlp.gate_proj": "blk.{n}.ffn_gate",
    "model.layers.{n}.mlp.up_proj": "blk.{n}.ffn_up",
    "model.layers.{n}.mlp.down_proj": "blk.{n}.ffn_down",
    "model.layers.{n}.input_layernorm": "blk.{n}.attn_norm",
    "model.layers.{n}.post_attention_layernorm": "blk.{n}.ffn_norm",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "transformer.h.{n}.ln_1": "blk.{n}.attn_norm",
    "transformer.h.{n}.ln_2": "blk.{n}.ffn_norm",
    "transformer.h.{n}.attn.c_attn": "blk.{n}.attn_qkv",
    "transformer.h.{n}.attn.c_proj": "blk.{n}.attn_output",
    "transformer.h.{n}.mlp.c_fc": "blk.{n}.ffn_up",
    "transformer.h.{n}.mlp.c_proj": "blk.{n}.ffn_down",
}
SANDWICH = {  # Gemma 3 has a norm after each part too
    "model.layers.{n}.post_attention_layernorm": "blk.{n}.post_attention_norm",
    "model.layers.{n}.pre_feedforward_layernorm": "blk.{n}.ffn_norm",
    "model.layers.{n}.post_feedforward_layernorm": "blk.{n}.post_ffw_norm",
}


def byte_level_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.save_pretrained(folder)
    return tokenizer


def as_llama_cpp_has_it(name: str, values: np.ndarray, settings: dict) -> tuple[str, np.ndarray]:
    kind, [*_, ending] = settings["model_type"], name.split(".")
    layer = re.search(r"\.(\d+)\.", name)
    bare = name.removesuffix(f".{ending}")
    bare = bare.replace(f".{layer[1]}.", ".{n}.") if layer else bare
    names = NAMES | (SANDWICH if kind == "gemma3_text" else {})
    renamed = names[bare].replace("{n}", layer[1] if layer else "") + f".{ending}"
    if kind == "llama" and re.search(r"[qk]_proj", name):  # rows i and i + half, next to each other
        heads = HEADS if "q_proj" in name else 2
        rows = values.shape[0] // heads
        order = [
            h * rows + i + j for h in range(heads) for i in range(rows // 2) for j in (0, rows // 2)
        ]
        values = values[order]
    if kind.startswith("gemma") and "norm" in name:
        values = values + 1
    if kind == "gpt2" and ending == "weight" and re.search("c_attn|c_proj|c_fc", name):
        values = values.T
    return renamed, np.ascontiguousarray(values)


def written(
    folder: Path,
    kind: Kind = Kind.F32,
    vectors: Kind = Kind.F32,
    pre: str = "gpt-2",
    begins: bool = False,
    more: dict[str, np.ndarray] | None = None,
    **metadata,
) -> Path:
    """Write a folder's model as one GGUF file, its matrices in ``kind``."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config, settings = model.config, model.config.to_dict()
    architecture = "gemma3" if settings["model_type"] == "gemma3_text" else settings["model_type"]
    path = folder / "model.gguf"
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(settings.get("intermediate_size") or settings["n_inner"])
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        rope = settings["rope_parameters"]
        writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
        writer.add_key_length(getattr(config, "head_dim", None) or WIDTH // HEADS)
    if architecture == "gemma3":
        writer.add_sliding_window(config.sliding_window)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    described = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(sorted(described["vocab"], key=described["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in described["merges"]])
    writer.add_add_bos_token(begins)
    writer.add_bos_token_id(7)
    for name, value in metadata.items():
        (writer.add_uint32 if isinstance(value, int) else writer.add_string)(name, value)
    state = model.state_dict()
    if settings["tie_word_embeddings"]:
        state.pop("lm_head.weight")
    for name, tensor in state.items():
        renamed, values = as_llama_cpp_has_it(name, tensor.numpy(), settings)
        stored = kind if values.ndim > 1 else vectors
        data = gguf.quantize(values, stored)
        if stored in (Kind.F32, Kind.F16):
            writer.add_tensor(renamed, data)
        else:
            writer.add_tensor(renamed, data, raw_dtype=stored)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(params=MODELS)
def any_folder(request, tmp_path):
    folder = made_checkpoint(tmp_path / "tiny", **MODELS[request.param])
    byte_level_tokenizer(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    folder = made_checkpoint(tmp_path / "tiny", **LLAMA)
    byte_level_tokenizer(folder)
    return folder


def states(block) -> dict[str, torch.Tensor]:
    norm = block.final_norm.state_dict()
    return block.decoder.state_dict() | {f"final.{name}": one for name, one in norm.items()}


def test_a_layer_is_that_of_the_folder(any_folder):
    path = written(any_folder)
    for layer in (0, 2):
        found, expected = load_block(path, layer), load_block(any_folder, layer)
        assert states(found).keys() == states(expected).keys()
        for name, tensor in states(expected).items():
            torch.testing.assert_close(states(found)[name], tensor, rtol=0, atol=2e-7)  # +1, -1
        tokens = torch.randn(2, TOKENS, WIDTH)
        torch.testing.assert_close(found(tokens), expected(tokens), rtol=1e-5, atol=1e-5)
        normed, rows = found.final_norm(tokens), expected.final_norm(tokens)
        torch.testing.assert_close(normed, rows, rtol=1e-5, atol=1e-5)
    assert found.language == "model"


def test_features_of_captions_are_those_of_the_folder(any_folder):
    found, _ = caption_features(written(any_folder), TEXTS, 4)
    expected, _ = caption_features(any_folder, TEXTS, 4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("begins", [False, True])
def test_a_text_begins_with_the_token_that_the_metadata_say(folder, begins):
    """The tokenizer next to the file, which has no such token, has no say."""
    path = written(folder, begins=begins)
    [row] = tokenized(path, ["a cat"])
    plain = PreTrainedTokenizerFast.from_pretrained(folder)("a cat")["input_ids"]
    assert row == ([7, *plain] if begins else plain)


def test_sizes_are_those_of_the_folder(any_folder):
    assert describe(written(any_folder)) == describe(any_folder)


@pytest.mark.parametrize(
    "name", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4", "TQ2_0", "BF16", "F16"]
)
def test_a_quantised_layer_is_equal_within_the_quantisation_s_step(tmp_path, name):
    wide = {**LLAMA, "hidden_size": 256, "intermediate_size": 256} if name == "TQ2_0" else LLAMA
    folder = made_checkpoint(tmp_path / "tiny", **wide)
    byte_level_tokenizer(folder)
    found = load_block(written(folder, Kind[name]), 1).decoder.state_dict()
    expected = load_block(folder, 1).decoder.state_dict()
    steps = {"Q8_0": 254, "Q5_1": 31, "Q5_0": 31, "Q4_1": 15, "Q4_0": 15, "MXFP4": 4, "TQ2_0": 2}
    for tensor, values in expected.items():
        apart = (found[tensor].float() - values).abs().max()
        if values.ndim == 1:
            assert torch.equal(found[tensor], values)
        else:  # at most a step of the largest block
            width = values.max() - values.min()
            assert 0 < apart <= 1.1 * width / steps.get(name, 250)
    assert found["mlp.up_proj.weight"].dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(
        name, torch.float32
    )


@pytest.mark.parametrize("name", sorted(set(dequant.GGML_NAME.values())))
def test_dequantised_values_are_those_of_transformers_own_reader(tmp_path, name):
    """Random bytes of all that both read; they are small, so that all values are finite."""
    elements, size = gguf.GGML_QUANT_SIZES[Kind[name]]
    width = 256
    bytes_of = np.random.default_rng(0).integers(0, 60, (width, width // elements * size), np.uint8)
    folder = made_checkpoint(tmp_path / "tiny", **{**LLAMA, "hidden_size": width})
    byte_level_tokenizer(folder)
    path = written(folder)
    reader = gguf.GGUFReader(path)
    assert "blk.1.attn_output.weight" in {one.name for one in reader.tensors}
    writer = GGUFWriter(folder / "quantised.gguf", "llama")
    for field in reader.fields.values():
        if field.name.startswith("llama."):
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for one in reader.tensors:
        if one.name == "blk.1.attn_output.weight":
            writer.add_tensor(one.name, bytes_of, raw_dtype=Kind[name])
        else:
            writer.add_tensor(one.name, np.array(one.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = load_block(folder / "quantised.gguf", 1).decoder.self_attn.o_proj.weight
    expected = dequant.dequantize(torch.from_numpy(bytes_of.ravel()), Kind[name].value)
    torch.testing.assert_close(found, expected.view(width, width), rtol=1e-6, atol=1e-8)


LISTS = {  # of every type
    "strings": ["a", "", "\N{BIRD}", "x" * 300],
    "floats": [0.5, -1.0],
    "whole numbers": [1, -2, 3],
    "truths": [True, False, True],
    "one string": ["alone"],
    "nothing": [],
}


@pytest.mark.parametrize("order", list(gguf.GGUFEndian))
def test_passing_over_lists_changes_nothing_else(tmp_path, order):
    """Against the package's own reader, which makes arrays of every item."""
    writer = GGUFWriter(tmp_path / "lists.gguf", "llama", endianess=order)
    for number, (name, values) in enumerate(LISTS.items()):
        writer.add_uint32(f"before {name}", number)
        if values:
            writer.add_array(name, values)
        writer.add_string(f"after {name}", f"number {number}")
    values = np.arange(96, dtype=np.float32).reshape(3, 32)
    writer.add_tensor("matrix", values)
    writer.add_tensor("quantised", gguf.quantize(values, Kind.Q8_0), raw_dtype=Kind.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = Reader(tmp_path / "lists.gguf")
    expected = gguf.GGUFReader(tmp_path / "lists.gguf")
    assert list(found.fields) == list(expected.fields)
    for name, field in expected.fields.items():
        if name in LISTS:
            assert field.contents() == pytest.approx(LISTS[name])
            assert found.fields[name].data == []
        else:
            assert found.fields[name].contents() == field.contents()
    assert found.data_offset == expected.data_offset
    for one, two in zip(found.tensors, expected.tensors, strict=True):
        assert (one.name, one.tensor_type, one.data_offset) == (
            *(two.name, two.tensor_type, two.data_offset),
        )
        assert np.array_equal(one.data, two.data)


def test_a_list_that_never_ends_is_refused(folder):
    path = written(folder)
    content = bytearray(path.read_bytes())
    place = content.index(b"tokenizer.ggml.merges") + len("tokenizer.ggml.merges") + 8
    content[place : place + 8] = b"\xff" * 8  # how many
    path.write_bytes(content)
    assert "must be a complete GGUF file" in error_of(load_block, path, 0)


def test_an_extracted_layer_is_the_layer(folder, tmp_path):
    path = written(folder, Kind.Q8_0)
    extract_block(path, 1, tmp_path / "layer.safetensors")
    found, expected = read_block(tmp_path / "layer.safetensors"), load_block(path, 1)
    assert all(torch.equal(found.state_dict()[n], t) for n, t in expected.state_dict().items())
    assert found.language == "model"


def test_only_the_bytes_of_one_layer_are_read(folder):
    """Bytes of other layers are spoiled after the file is written: the layer is the same."""
    path = written(folder)
    expected = load_block(path, 1).state_dict()
    spoiled = bytearray(path.read_bytes())
    for one in gguf.GGUFReader(path).tensors:
        if "blk.0." in one.name:
            spoiled[one.data_offset : one.data_offset + one.n_bytes] = b"\xff" * int(one.n_bytes)
    (folder / "spoiled.gguf").write_bytes(spoiled)
    found = load_block(folder / "spoiled.gguf", 1).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (
        load_block(folder / "spoiled.gguf", 0)
        .state_dict()["decoder.mlp.up_proj.weight"]
        .isnan()
        .all()
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"general.type": "adapter"}, "must hold a model, got a GGUF of type adapter"),
        ({"split.count": 3}, "one of 3 parts"),
    ],
)
def test_what_is_no_whole_model_is_refused(folder, changes, problem):
    assert problem in error_of(load_block, written(folder, **changes), 0)


def test_a_layer_with_a_tensor_that_the_family_lacks_is_refused(folder):
    path = written(folder, more={"blk.1.attn_sub_norm.weight": np.ones(WIDTH, np.float32)})
    assert "attn_sub_norm.weight must be absent" in error_of(load_block, path, 1)
    assert load_block(path, 0).layer == 0


def test_factors_of_positions_are_no_parameters_and_are_refused_for_captions(folder):
    plain = describe(written(folder))
    path = written(folder, more={"rope_freqs.weight": np.ones(4, np.float32)})
    assert describe(path) == plain
    assert "factors for each angle" in error_of(caption_features, path, TEXTS, 4)


def test_another_architecture_is_refused(folder):
    writer = GGUFWriter(folder / "other.gguf", "mamba")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "must be one of gemma, gemma3, gpt2" in error_of(load_block, folder / "other.gguf", 0)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9])
def test_a_file_that_ends_early_is_refused(folder, share):
    path = written(folder)
    content = path.read_bytes()
    (folder / "short.gguf").write_bytes(content[: int(share * len(content))])
    assert "Get the file again" in error_of(load_block, folder / "short.gguf", 2)


def test_another_kind_of_file_is_refused(folder):
    (folder / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
    message = error_of(load_block, folder / "pointer.gguf", 0)
    assert "pointer.gguf: must be the file itself, got git-lfs's pointer to it" in message
    (folder / "text.gguf").write_text("a text\n" * 99)
    assert "must be a complete GGUF file" in error_of(load_block, folder / "text.gguf", 0)
    assert "got none" in error_of(load_block, folder / "missing.gguf", 0)


def test_scaled_positions_are_refused_for_captions_and_not_for_layers(folder):
    path = written(folder, **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8})
    assert "must not be scaled" in error_of(caption_features, path, TEXTS, 4)
    assert load_block(path, 0).hidden == WIDTH


def test_an_unknown_way_to_split_texts_is_refused(folder):
    path = written(folder, pre="mystery")
    assert "tokenizer.ggml.pre must be" in error_of(caption_features, path, TEXTS, 4)


@pytest.mark.slow
def test_smollm2_from_its_package_is_a_language_model():
    """A plain sentence is likely, the same words in another order are not."""
    path = demo_packages() and MODEL
    config = parse_config(read_settings(path), path)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    tensors = read_tensors(path, re.compile("^(.+)$"))
    lost = model.load_state_dict(tensors, strict=False)  # the output is the embedding
    assert (lost.missing_keys, lost.unexpected_keys) == (["lm_head.weight"], [])
    model.tie_weights()
    sentence = "Paris is the capital of France and its largest city."
    shuffled = "city largest Paris and the of its is France capital."
    losses = {}
    for text in (sentence, shuffled):
        ids = torch.tensor(tokenized(path, [text]))
        with torch.no_grad():
            losses[text] = model(ids, labels=ids).loss.exp().item()
    assert losses[sentence] < 20
    assert losses[shuffled] > 1_000
    described = describe(path)
    assert (described.layers, described.hidden) == (30, 576)
    assert (described.parameters, described.block_parameters) == (134_515_008, 3_540_096)
