"""Checkpoints in which something stands before the names: wrappers, models of pictures and texts.

The right value is always that of the same model saved plainly.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rectify.language import extract_block, load_block
from rectify.language.captions import caption_features
from rectify.language.weights import describe
from tests.helpers.tiny_checkpoints import FAMILIES, WIDTH, error_of, made_checkpoint

CAPTIONS = ["a red bird", "two cats"]
PREFIXES = (
    *("module.", "_orig_mod.", "base_model.model.", "language_model.", "llm.", "a.b.c."),
    "model.language_model.",
)


@pytest.fixture(params=["llama", "opt", "gpt2", "bloom", "gpt-neox", "falcon"])
def any_checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return made_checkpoint(tmp_path / "tiny", **FAMILIES[request.param])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])


def changed(folder: Path, change) -> None:
    """Give every tensor another name; without one it is left out."""
    path = folder / "model.safetensors"
    renamed = {change(name): tensor for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in renamed.items() if name}, path)


def everything(folder: Path) -> tuple:
    """Return a layer's tensors and the final norm's, features of captions, and the description."""
    block = load_block(folder, 1)
    tensors = {**block.decoder.state_dict(), **block.final_norm.state_dict()}
    features, origin = caption_features(folder, CAPTIONS, 2)
    return tensors, features, origin.sha256["weights"], describe(folder)


def assert_same(found: tuple, expected: tuple) -> None:
    assert all(torch.equal(found[0][name], tensor) for name, tensor in expected[0].items())
    assert torch.equal(found[1], expected[1])
    assert found[2:] == expected[2:]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_a_wrapper_puts_before_the_names_changes_nothing(checkpoint, prefix) -> None:
    expected = everything(checkpoint)
    changed(checkpoint, lambda name: f"{prefix}{name}")
    assert_same(everything(checkpoint), expected)


def test_every_family_may_be_wrapped_or_bare(any_checkpoint) -> None:
    expected = everything(any_checkpoint)
    names = list(load_file(any_checkpoint / "model.safetensors"))
    start = next(name for name in names if not name.startswith(("lm_head", "embed_out")))
    base = f"{start.partition('.')[0]}."
    changed(any_checkpoint, lambda name: f"module.{name}")
    assert_same(everything(any_checkpoint), expected)
    bare = len("module.") + len(base)
    changed(any_checkpoint, lambda n: n[bare:] if n.startswith(f"module.{base}") else n[7:])
    assert_same(everything(any_checkpoint), expected)


def with_pictures(folder: Path, language: str, vision: str) -> None:
    """Make a model of pictures and texts of a language model: LLaVA's names and settings."""
    head = "lm_head." if language == "model.language_model." else "language_model.lm_head."
    path = folder / "model.safetensors"
    tensors = {
        name.replace("model.", language, 1)
        if name.startswith("model.")
        else name.replace("lm_head.", head): tensor
        for name, tensor in load_file(path).items()
    }
    tower = f"{vision}.vision_model.encoder.layers.1"
    parts = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "layer_norm1.weight")
    tensors |= {f"{tower}.{part}": torch.randn(WIDTH, WIDTH) for part in parts}
    tensors["multi_modal_projector.linear_1.weight"] = torch.randn(WIDTH, 4)
    save_file(tensors, path)
    text = json.loads((folder / "config.json").read_text())
    settings = {"model_type": "llava", "text_config": text, "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("language", "vision"),
    [("language_model.model.", "vision_tower"), ("model.language_model.", "model.vision_tower")],
)
def test_the_language_model_of_llava_is_the_language_model(checkpoint, language, vision) -> None:
    expected = everything(checkpoint)
    with_pictures(checkpoint, language, vision)
    assert_same(everything(checkpoint), expected)


def test_an_extracted_layer_of_llava_knows_its_settings(checkpoint, tmp_path) -> None:
    from rectify.language import read_block

    expected = load_block(checkpoint, 1)
    with_pictures(checkpoint, "language_model.model.", "vision_tower")
    extract_block(checkpoint, 1, tmp_path / "block.safetensors")
    block = read_block(tmp_path / "block.safetensors")
    assert block.family == "llama"
    tokens = torch.randn(1, 3, WIDTH)
    assert torch.equal(block(tokens), expected(tokens))


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt", "gpt2", "bloom", "gemma", "falcon"])
def test_a_tied_model_may_keep_its_output_alone(tmp_path, family) -> None:
    folder = made_checkpoint(tmp_path / "tied", **FAMILIES[family], tie_word_embeddings=True)
    expected = everything(folder)
    tables = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
    changed(folder, lambda name: "lm_head.weight" if name.endswith(tables) else name)
    assert_same(everything(folder), expected)


def test_the_output_of_a_model_that_is_not_tied_is_no_embedding(checkpoint) -> None:
    changed(checkpoint, lambda name: "" if "embed_tokens" in name else name)
    message = error_of(caption_features, checkpoint, CAPTIONS, 2)
    assert "tensor embed_tokens.weight must be (40, 32), got absent" in message


# --- errors, one line each ---


def test_two_language_models_are_refused(checkpoint) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"draft.{name}": tensor.clone() for name, tensor in tensors.items()}, path)
    message = error_of(load_block, checkpoint, 0)
    assert "must hold one language model, got layers of llama below draft.model. and model." in (
        message
    )


def test_more_layers_than_the_settings_tell_are_refused(checkpoint) -> None:
    """Else features would end with a layer in the middle."""
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 2}))
    for action in (
        lambda: load_block(checkpoint, 0),
        lambda: describe(checkpoint),
        lambda: caption_features(checkpoint, CAPTIONS, 2),
    ):
        message = error_of(action)
        assert "must have the 2 layers of its settings, got tensors of layer 2" in message


def test_layers_of_another_family_are_told_by_a_name_that_is_there(checkpoint) -> None:
    changed(checkpoint, lambda name: name.replace("layers", "blocks"))
    message = error_of(load_block, checkpoint, 0)
    assert "with tensors as layers.0.input_layernorm.weight, got lm_head.weight, model." in message


def test_an_adapter_in_place_of_a_model_is_refused(checkpoint) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "adapter_model.safetensors")
    (checkpoint / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for action in (lambda: load_block(checkpoint, 0), lambda: describe(checkpoint)):
        assert "must hold a model, got an adapter to one. Merge it" in error_of(action)
    (checkpoint / "config.json").unlink()
    assert "must hold a model, got an adapter to one. Merge it" in error_of(describe, checkpoint)


def test_a_model_with_its_adapter_in_it_is_refused(checkpoint) -> None:
    """What peft saves of a model that was not merged, with each matrix under `base_layer`."""
    path = checkpoint / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(path).items():
        if "q_proj" in name:
            start = f"base_model.model.{name.removesuffix('weight')}"
            tensors |= {f"{start}base_layer.weight": tensor}
            tensors |= {f"{start}lora_A.default.weight": torch.ones(2, WIDTH)}
        else:
            tensors[f"base_model.model.{name}"] = tensor
    save_file(tensors, path)
    assert "got an adapter to one" in error_of(load_block, checkpoint, 0)
