"""Quantised checkpoints: blocks of 8-bit floats are read as transformers does, others refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from rectify.language import extract_block, load_block
from rectify.language.captions import caption_features
from rectify.language.weights import describe
from tests.helpers.tiny_checkpoints import FAMILIES, WIDTH, error_of, made_checkpoint

BLOCK = [16, 8]
FLOAT8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": BLOCK,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"])


def configured(folder: Path, **settings) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def in_blocks(folder: Path, block: list[int] = BLOCK) -> dict[str, torch.Tensor]:
    """Quantise the matrices of the layers as DeepSeek does; return all tensors."""
    path, tensors = folder / "model.safetensors", {}
    for name, tensor in load_file(path).items():
        tensors[name] = tensor
        if "proj" in name:
            rows, columns = (
                -(-size // step) for size, step in zip(tensor.shape, block, strict=True)
            )
            scales = torch.empty(rows, columns)
            quantised = torch.empty_like(tensor)
            for row in range(rows):
                for column in range(columns):
                    part = (
                        slice(row * block[0], (row + 1) * block[0]),
                        slice(column * block[1], (column + 1) * block[1]),
                    )
                    scales[row, column] = tensor[part].abs().max() / 448
                    quantised[part] = tensor[part] / scales[row, column]
            tensors[name] = quantised.to(torch.float8_e4m3fn)
            tensors[f"{name}_scale_inv"] = scales
    save_file(tensors, path)
    configured(folder, quantization_config={**FLOAT8, "weight_block_size": block})
    return tensors


def test_blocks_of_8_bit_floats_are_what_transformers_makes_of_them(checkpoint) -> None:
    plain, facts = load_block(checkpoint, 1).decoder.state_dict(), describe(checkpoint)
    tensors = in_blocks(checkpoint)
    found = load_block(checkpoint, 1).decoder.state_dict()
    start = "model.layers.1."
    for name, tensor in found.items():
        stored, scales = tensors[f"{start}{name}"], tensors.get(f"{start}{name}_scale_inv")
        if scales is not None:
            expected = Fp8Dequantize(None)._dequantize_one(stored, scales, torch.float32)
            assert torch.equal(tensor, expected)
            assert tensor.dtype == torch.float32
            assert (tensor - plain[name]).abs().max() < 0.07 * plain[name].abs().max()
        else:
            assert torch.equal(tensor, stored)
    assert describe(checkpoint) == facts


def test_the_last_blocks_may_be_cut(checkpoint) -> None:
    """By hand, entry by entry: 32 and 48 are no multiples of 20 and 12."""
    tensors = in_blocks(checkpoint, [20, 12])
    found = load_block(checkpoint, 0).decoder.mlp.down_proj.weight
    stored = tensors["model.layers.0.mlp.down_proj.weight"].float()
    scales = tensors["model.layers.0.mlp.down_proj.weight_scale_inv"]
    assert scales.shape == (2, 4)
    for row in range(32):
        for column in range(48):
            expected = stored[row, column] * scales[row // 20, column // 12]
            assert found[row, column] == expected


def test_features_and_extracted_layers_are_those_of_the_dequantised_model(
    checkpoint, tmp_path
) -> None:
    tensors = in_blocks(checkpoint)
    found, _ = caption_features(checkpoint, ["a red bird"], 1)
    extract_block(checkpoint, 2, tmp_path / "found.safetensors")
    whole = {
        name: Fp8Dequantize(None)._dequantize_one(t, tensors[f"{name}_scale_inv"], torch.float32)
        if f"{name}_scale_inv" in tensors
        else t
        for name, t in tensors.items()
        if not name.endswith("_scale_inv")
    }
    save_file(whole, checkpoint / "model.safetensors")
    configured(checkpoint, quantization_config=None)
    assert torch.equal(found, caption_features(checkpoint, ["a red bird"], 1)[0])
    extract_block(checkpoint, 2, tmp_path / "expected.safetensors")
    one, two = (load_file(tmp_path / f"{n}.safetensors") for n in ("found", "expected"))
    assert all(torch.equal(one[name], tensor) for name, tensor in two.items())


def test_factors_that_do_not_fit_are_refused(checkpoint) -> None:
    tensors = in_blocks(checkpoint)
    name = "model.layers.1.mlp.up_proj.weight_scale_inv"
    save_file({**tensors, name: torch.ones(2, 2)}, checkpoint / "model.safetensors")
    message = error_of(load_block, checkpoint, 1)
    assert "layer 1: tensor mlp.up_proj.weight_scale_inv must be (3, 4), got (2, 2)" in message
    del tensors[name]
    save_file(tensors, checkpoint / "model.safetensors")
    message = error_of(load_block, checkpoint, 1)
    assert "tensor mlp.up_proj.weight must be of floating-point numbers of 16 bits" in message
    assert "got float8_e4m3fn" in message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq, 4 bits"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq, 4 bits"),
        ({"quantization_config": {"load_in_4bit": True}}, "a quantisation, load_in_4bit"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"quantization_config": {**FLOAT8, "activation_scheme": "static"}}, "fp8"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "a quantisation, 4 bits"),
        ({"quantization_config": "4 bits"}, "'4 bits'"),
    ],
)
def test_other_quantisations_are_refused_by_name(checkpoint, settings, told) -> None:
    configured(checkpoint, **settings)
    for action in (
        lambda: load_block(checkpoint, 0),
        lambda: describe(checkpoint),
        lambda: caption_features(checkpoint, ["a"], 1),
    ):
        message = error_of(action)
        assert f"got {told}. Get the model that was quantised, or a GGUF of it." in message


def test_a_quantised_language_model_inside_another_model_is_refused(checkpoint) -> None:
    text = json.loads((checkpoint / "config.json").read_text())
    text["quantization_config"] = {"quant_method": "awq"}
    configured(checkpoint, model_type="llava", text_config=text)
    assert "got awq" in error_of(load_block, checkpoint, 0)


@pytest.mark.parametrize("file", ["quantize_config.json", "quant_config.json"])
def test_settings_of_a_quantisation_in_a_file_of_their_own_are_seen(checkpoint, file) -> None:
    (checkpoint / file).write_text('{"bits": 4, "w_bit": 4}')
    assert "Get the model that was quantised" in error_of(load_block, checkpoint, 0)


@pytest.mark.parametrize(
    "parts", [("qweight", "qzeros", "scales"), ("weight", "scales", "biases"), ("weight", "SCB")]
)
def test_packed_matrices_without_any_setting_are_refused(checkpoint, parts) -> None:
    path, tensors = checkpoint / "model.safetensors", {}
    for name, tensor in load_file(path).items():
        bare = name.removesuffix(".weight")
        packed = {f"{bare}.{part}": torch.ones(4, 4, dtype=torch.int32) for part in parts}
        tensors |= packed if "proj" in name else {name: tensor}
    save_file(tensors, path)
    message = error_of(load_block, checkpoint, 1)
    assert "must be as they were trained, got packed ones: " in message


def test_whole_numbers_are_no_weights(checkpoint) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: (100 * tensors[name]).to(torch.int8)}, path)
    assert "tensor mlp.up_proj.weight must be of floating-point numbers" in error_of(
        load_block, checkpoint, 1
    )
    load_block(checkpoint, 0)


def test_a_matrix_of_zeros_is_refused(checkpoint, tmp_path) -> None:
    """As a download leaves it that has the right size and other bytes."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight"):
        save_file({**tensors, name: torch.zeros_like(tensors[name])}, path)
        message = error_of(caption_features, checkpoint, ["a"], 1)
        assert "must have an entry other than 0, got none: its file is damaged" in message
    save_file({**tensors, "model.layers.1.mlp.up_proj.weight": torch.zeros(48, WIDTH)}, path)
    message = error_of(extract_block, checkpoint, 1, tmp_path / "block.safetensors")
    assert "layer 1: tensor mlp.up_proj.weight must have an entry other than 0" in message
    assert not (tmp_path / "block.safetensors").exists()
