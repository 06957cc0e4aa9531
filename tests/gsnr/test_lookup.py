"""Which layers are measured: those of known types, found in a folder; others are refused."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import layers
from rectify.gsnr.lookup import layer_types
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import (
    BOTH_MODES,
    Pieces,
    assert_close,
    batch,
    loop,
    numbers,
    per_sample,
    vit,
)


def test_frozen_parameters_are_skipped() -> None:
    model, (images, labels) = vit(), batch()
    model.blocks[0].mlp.requires_grad_(False)
    model.blocks[1].norm1.weight.requires_grad_(False)
    found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)
    assert "blocks.1.norm1.bias" in found


def test_a_module_of_another_type_is_measured_the_generic_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.PReLU(2)))
    with caplog.at_level("INFO"):
        watched = GradientMoments({"blocks": block})
    assert watched.generic == ["blocks.1.0"]
    assert "1 layers are measured the generic way, which is slower: blocks.1.0" in caplog.text
    assert GradientMoments(nn.MultiheadAttention(4, 2)).generic == [""]
    block[1].requires_grad_(False)
    assert len(GradientMoments({"blocks": block}).parameters) == 2


def test_a_module_that_cannot_be_measured_is_refused_by_name_or_skipped() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Embedding(3, 2, sparse=True)))
    known = r"Embedding \(not sparse, without max_norm and scale_grad_by_freq\)"
    with pytest.raises(ValueError, match=rf"blocks\.1\.0 must be {known}, got Embedding with weig"):
        GradientMoments({"blocks": block})
    watched = GradientMoments({"blocks": block}, unsupported="skip")
    assert watched.names == ["blocks.0.weight", "blocks.0.bias"]
    assert list(watched.skipped) == ["blocks.1.0"]
    with pytest.raises(ValueError, match=rf"blocks\.0 must be {known}"):
        GradientMoments({"blocks": block[1]}, unsupported="skip")  # nothing is left
    with pytest.raises(ValueError, match="unsupported must be one of raise, skip, got 'warn'"):
        GradientMoments(block[0], unsupported="warn")


def test_what_is_excluded_is_not_watched() -> None:
    model = vit()
    every = GradientMoments(model).names

    def left(*exclude: str) -> set[str]:
        return set(every) - set(GradientMoments(model, exclude=exclude).names)

    assert left("blocks.0.attn.qkv") == {"blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias"}
    assert left("pos_embed", "head.bias") == {"pos_embed", "head.bias"}
    assert left("*.bias") == {name for name in every if name.endswith(".bias")}
    assert left("blocks.*.mlp") == {name for name in every if ".mlp." in name}
    with pytest.raises(ValueError, match=r"exclude must name modules .* got 'block'\. Parameters"):
        GradientMoments(model, exclude=["block"])


def test_nothing_to_measure_or_a_shared_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0, 0 of them distinct"):
        GradientMoments(nn.GELU())
    line = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="got 4, 2 of them distinct"):
        GradientMoments({"first": line, "second": line})


@BOTH_MODES
def test_a_forward_that_was_put_over_a_layer_is_refused_and_left(mode: str) -> None:
    model = Pieces(lambda first, second, x: second(first(x)))
    plain = model.first.forward
    model.first.forward = lambda values: 2 * plain(values)
    with pytest.raises(ValueError, match="first must run the forward of its class"):
        GradientMoments(model, mode)
    assert "forward" in vars(model.first)


def test_modules_with_parameters_that_their_type_should_not_have_are_measured_as_a_whole() -> None:
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    assert GradientMoments(distilled).generic == [""]
    line = nn.Linear(3, 3)
    line.scale = nn.Parameter(torch.ones(3))
    assert GradientMoments(line).generic == [""]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler about what it does itself
def test_compiled_modules_are_refused() -> None:
    model, (images, labels) = vit(depth=1), batch()
    compiled = torch.compile(model, backend="aot_eager")
    cross_entropy(compiled(images), labels)
    watched = GradientMoments(model.blocks)
    with watched, pytest.raises(ValueError, match="the model must be eager where it is watched"):
        cross_entropy(compiled(images), labels).backward()
    model.blocks[0].compile(backend="aot_eager")
    with pytest.raises(ValueError, match=r"blocks\.0 must be eager, got a compiled one"):
        GradientMoments({"blocks": model.blocks})


SHIFT = """
import torch
from torch import Tensor, nn

from rectify.gsnr.contract import LayerType, Sums, sums_of_tokens
from rectify.gsnr.links import Links


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.arange(5.0, dtype=torch.float64))

    def forward(self, values: Tensor) -> Tensor:
        return values + self.by


class ShiftType(LayerType):
    modules = (Shift,)
    title = "Shift"
    parameters = ("by",)

    def sums(
        self, module: Shift, name: str, inputs: Tensor, delta: Tensor, links: Links | None
    ) -> Sums:
        return sums_of_tokens(delta, module.by, links)
"""


@pytest.fixture
def shift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A layer type in one more file of the folder of layers, and nothing else."""
    (tmp_path / "shift.py").write_text(SHIFT)
    monkeypatch.setattr(layers, "__path__", [*layers.__path__, str(tmp_path)])
    layer_types.cache_clear()
    yield importlib.import_module("rectify.gsnr.layers.shift")
    layer_types.cache_clear()
    del sys.modules["rectify.gsnr.layers.shift"]
    del layers.shift


@BOTH_MODES
def test_a_new_layer_type_is_one_new_file(mode: str, shift: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(5, 5).double(), shift.Shift(), nn.Tanh())
    inputs, labels = numbers(3, 5), batch()[1]

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return per_sample(outputs.mean(1), targets)

    watched = GradientMoments(model, mode)
    with watched:
        losses(model(inputs), labels).mean().backward()
    expected = loop(model, inputs, labels, losses, part="")
    assert expected.keys() == {"0.weight", "0.bias", "1.by"}
    assert_close(watched.moments(), expected, 1e-10)
    assert watched.generic == []


def test_each_file_of_the_folder_has_a_layer_type() -> None:
    (folder,) = layers.__path__
    files = {path.stem for path in Path(folder).glob("*.py")} - {"__init__"}
    modules = {type(kind).__module__ for kind in layer_types().values()}
    assert modules == {f"rectify.gsnr.layers.{file}" for file in files}


def test_a_subclass_of_a_known_type_is_measured_by_what_it_computes() -> None:
    class Doubled(nn.Linear):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    model, inputs, labels = Doubled(5, 5).double(), numbers(5), batch()[1]
    found = gradient_moments(model, inputs, labels, per_sample, model)
    assert_close(found, loop(model, inputs, labels, per_sample, part=""), 1e-10)
