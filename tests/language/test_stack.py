"""Some decoder layers in a row: each as it is alone, one after the other, in one file."""

from pathlib import Path

import pytest
import torch

from rectify.language import Stack, extract_block, load_block, read_block, redrawn, shuffled
from rectify.language.block import block_facts, outline_block
from rectify.rectified import build
from rectify.runtime import generator
from tests.helpers.tiny_checkpoints import LAYERS, WIDTH, made_checkpoint

ROW = f"{LAYERS - 2}-{LAYERS - 1}"


@pytest.fixture(params=["llama", "opt"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    sizes = {"llama": {"intermediate_size": 48}, "opt": {"word_embed_proj_dim": WIDTH}}
    return made_checkpoint(tmp_path / "tiny", model_type=request.param, **sizes[request.param])


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))


def test_a_row_is_one_layer_after_the_other(checkpoint: Path, tokens: torch.Tensor) -> None:
    row = load_block(checkpoint, ROW)
    expected = tokens
    for layer in (LAYERS - 2, LAYERS - 1):
        expected = load_block(checkpoint, layer)(expected)
    assert torch.equal(row(tokens), expected)
    assert (row.hidden, row.language, row.layer) == (WIDTH, "tiny", ROW)


def test_padding_reaches_every_layer(checkpoint: Path, tokens: torch.Tensor) -> None:
    row, padding = load_block(checkpoint, ROW), torch.zeros(2, 5, dtype=torch.bool)
    padding[:, 3:] = True
    changed = tokens.clone()
    changed[:, 3:] = 7.0
    torch.testing.assert_close(row(changed, padding)[:, :3], row(tokens, padding)[:, :3])
    torch.testing.assert_close(row(tokens, padding)[:, :3], row(tokens[:, :3]))


def test_a_file_holds_the_row_and_the_norm_after_it(
    checkpoint: Path, tmp_path: Path, tokens: torch.Tensor
) -> None:
    file = tmp_path / "row.safetensors"
    extract_block(checkpoint, ROW, file)
    row = read_block(file)
    assert isinstance(row, Stack)
    assert torch.equal(row(tokens), load_block(checkpoint, ROW)(tokens))
    single = load_block(checkpoint, LAYERS - 1)
    assert torch.equal(row.final_norm(tokens), single.final_norm(tokens))
    assert block_facts(file)["layer"] == ROW
    assert [p.shape for p in outline_block(file).parameters()] == [
        p.shape for p in row.parameters()
    ]
    assert all(p.is_meta for p in outline_block(file).parameters())


def test_a_row_is_frozen_and_stays_in_evaluation_mode(checkpoint: Path) -> None:
    row = load_block(checkpoint, ROW).train()
    assert not any(parameter.requires_grad for parameter in row.parameters())
    assert not any(block.training for block in row.blocks)


def test_every_layer_of_a_row_is_drawn_anew(checkpoint: Path, tokens: torch.Tensor) -> None:
    row = load_block(checkpoint, ROW)
    drawn = redrawn(row, generator(0, "control"))
    first, second = (dict(block.decoder.named_parameters()) for block in drawn.blocks)
    matrix = next(name for name, weight in first.items() if weight.ndim == 2)
    assert not torch.equal(first[matrix], second[matrix])
    assert drawn.layer == ROW
    moved = shuffled(row, generator(0, "control"))
    for ours, theirs in zip(moved.parameters(), row.parameters(), strict=True):
        assert torch.equal(ours.flatten().sort().values, theirs.flatten().sort().values)


@pytest.mark.parametrize("control", ["frozen", "tuned", "scratch", "mlp"])
def test_a_row_is_inserted_as_a_layer_is(
    vit: torch.nn.Module, checkpoint: Path, tmp_path: Path, control: str
) -> None:
    file = tmp_path / "row.safetensors"
    extract_block(checkpoint, ROW, file)
    model = build(vit, "insert", control, block=file, position="end", seed=0)
    layer = model.bridge.layer
    assert (layer is None) == (control == "mlp")
    if layer is not None:
        assert {p.requires_grad for p in layer.parameters()} == {control in ("tuned", "scratch")}
