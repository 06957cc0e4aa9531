"""Blocks of the same shape without what was learned: redrawn, shuffled, of the same moments."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rectify.language import moment_matched, redrawn, shuffled
from rectify.language.block import load_block
from rectify.runtime import generator
from tests.helpers.tiny_checkpoints import EVERY_FAMILY, FAMILIES, TOKENS, WIDTH, made_checkpoint

CHANGES = [redrawn, shuffled, moment_matched]


@pytest.fixture(params=EVERY_FAMILY)
def any_checkpoint(request, tmp_path):
    return made_checkpoint(tmp_path / "tiny", **FAMILIES[request.param])


@pytest.fixture
def any_block(any_checkpoint):
    return load_block(any_checkpoint, 1)


@pytest.fixture
def block(tmp_path):
    return load_block(made_checkpoint(tmp_path / "tiny", **FAMILIES["llama"]), 1)


def tensors(block):
    """Return all tensors of a block, those of its final norm too."""
    norm = block.final_norm.state_dict() if block.final_norm is not None else {}
    return {**block.decoder.state_dict(), **{f"final_norm.{n}": t for n, t in norm.items()}}


@pytest.mark.parametrize("change", CHANGES)
def test_a_new_frozen_block_of_the_same_shape_comes_back(any_block, change):
    before = {name: tensor.clone() for name, tensor in tensors(any_block).items()}
    control = change(any_block, generator(0))
    assert tensors(control).keys() == before.keys()
    for name, tensor in tensors(control).items():
        assert (tensor.shape, tensor.dtype) == (before[name].shape, before[name].dtype)
        assert tensor.data_ptr() != tensors(any_block)[name].data_ptr()
        assert not torch.equal(tensor, before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(any_block).items())
    assert not any(parameter.requires_grad for parameter in control.parameters())
    assert not any(module.training for module in control.train().modules())
    names = ("hidden", "family", "language", "layer")
    assert [getattr(control, n) for n in names] == [getattr(any_block, n) for n in names]
    drawn = torch.randn(2, TOKENS, WIDTH, generator=generator(0, "tokens"))
    assert control(drawn).isfinite().all()
    assert not torch.equal(control(drawn), any_block(drawn))


@pytest.mark.parametrize("change", CHANGES)
def test_only_the_generator_that_is_given_decides(block, change):
    state = torch.get_rng_state()
    first, same, other = (tensors(change(block, generator(seed))) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], same[name]) for name in first)
    matrices = [name for name in first if first[name].ndim > 1]
    assert not any(torch.equal(first[name], other[name]) for name in matrices)


def test_redrawn_matrices_are_truncated_normals_and_norms_are_one(any_block):
    draws = generator(0)
    control = redrawn(any_block, generator(0))
    for _, tensor in sorted(control.decoder.state_dict().items()):
        if tensor.ndim > 1:
            expected = nn.init.trunc_normal_(torch.empty(tensor.shape), std=0.02, generator=draws)
            assert torch.equal(tensor, expected)
            assert abs(tensor.std().item() - 0.02) < 0.002
    for name, tensor in tensors(control).items():
        if tensor.ndim < 2:
            gain = 0.0 if control.family.startswith("gemma") else 1.0  # which adds one to it
            assert tensor.unique().tolist() == [gain if name.endswith("weight") else 0.0]


def test_shuffled_tensors_have_the_same_entries_elsewhere(any_block):
    control = tensors(shuffled(any_block, generator(0)))
    for name, tensor in tensors(any_block).items():
        assert torch.equal(control[name].flatten().sort().values, tensor.flatten().sort().values)
        assert (control[name] == tensor).double().mean() < 0.2 + 1 / len(tensor)


def test_the_moments_are_matched_exactly(any_block):
    control = tensors(moment_matched(any_block, generator(0)))
    for name, tensor in tensors(any_block).items():
        source, drawn = tensor.double(), control[name].double()
        deviation = source.std(correction=0)
        assert abs(drawn.mean() - source.mean()) < 1e-6 * deviation
        assert drawn.std(correction=0) == pytest.approx(deviation.item(), rel=1e-6)


def test_matched_entries_are_normal(tmp_path):
    wide = FAMILIES["llama"] | {"intermediate_size": 4096}
    block = load_block(made_checkpoint(tmp_path / "wide", **wide), 0)
    with torch.no_grad():
        block.decoder.mlp.up_proj.weight.exponential_(generator=generator(0, "entries"))
    entries = tensors(moment_matched(block, generator(0)))["mlp.up_proj.weight"].double()
    standard = ((entries - entries.mean()) / entries.std()).flatten()
    assert standard.pow(3).mean().abs() < 6 * math.sqrt(6 / len(standard))
    assert (standard.pow(4).mean() - 3).abs() < 6 * math.sqrt(24 / len(standard))


@pytest.mark.parametrize("change", [shuffled, moment_matched])
def test_a_constant_tensor_remains_as_it_is(block, change):
    with torch.no_grad():
        block.decoder.input_layernorm.weight.fill_(0.3)
        block.decoder.mlp.gate_proj.weight.zero_()
    control = tensors(change(block, generator(0)))
    assert control["input_layernorm.weight"].unique().tolist() == [pytest.approx(0.3)]
    assert control["mlp.gate_proj.weight"].unique().tolist() == [0.0]


@pytest.mark.parametrize("change", CHANGES)
def test_half_precision_is_kept(tmp_path, change):
    folder = made_checkpoint(tmp_path / "half", **FAMILIES["llama"])
    path = folder / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path)
    block = load_block(folder, 1)
    control = change(block, generator(0))
    assert control.decoder.mlp.up_proj.weight.dtype == torch.bfloat16
    assert control.decoder.input_layernorm.weight.dtype == torch.float32
    source = block.decoder.mlp.up_proj.weight.double()
    drawn = control.decoder.mlp.up_proj.weight.double()
    expected = 0.02 if change is redrawn else source.std().item()
    assert drawn.std().item() == pytest.approx(expected, rel=0.05 if change is redrawn else 1e-3)


def test_a_control_can_be_changed_again(block):
    """A shuffled shuffle is the shuffle of a permuted block: nothing is read from the file."""
    control = shuffled(shuffled(block, generator(0)), generator(1))
    name = "mlp.up_proj.weight"
    source = tensors(block)[name].flatten().sort().values
    assert torch.equal(tensors(control)[name].flatten().sort().values, source)
