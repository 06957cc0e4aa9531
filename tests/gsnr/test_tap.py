"""Taps: wherever a layer is called, they see its inputs and gradient, and change nothing."""

import contextlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

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


@BOTH_MODES
@pytest.mark.parametrize(
    "run",
    [
        lambda first, second, x: second(first(x).relu_()),
        lambda first, second, x: second(first(x).add_(x)),
        lambda first, second, x: second(input=first(input=x).tanh()),
    ],
    ids=["in place", "in place with a skip", "by keyword"],
)
def test_layers_are_measured_however_they_are_called(mode: str, run: Callable) -> None:
    model, inputs, labels = Pieces(run), numbers(5), batch()[1]
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(inputs), labels).mean().backward()
    assert_close(watched.moments(), loop(model, inputs, labels, per_sample, part=""), 1e-10)


@BOTH_MODES
def test_a_hook_that_changes_the_output_comes_after_the_tap(mode: str) -> None:
    model, labels = Pieces(lambda first, second, x: second(first(x))), batch()[1]
    model.first.register_forward_hook(lambda module, args, output: 3 * output)
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(numbers(5)), labels).mean().backward()
    expected = loop(model, numbers(5), labels, per_sample, part="")
    assert_close(watched.moments(), expected, 1e-10)


def test_no_hook_is_left_behind() -> None:
    model, (images, labels) = vit(), batch()

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    watched = GradientMoments(model.blocks)
    with watched:
        assert hooks() == 4  # of the norms
        assert "forward" in vars(model.blocks[0].attn.qkv)
        loss = cross_entropy(model(images), labels)
    assert hooks() == 0
    assert "forward" not in vars(model.blocks[0].attn.qkv)
    loss.backward()  # after the context: nothing is gathered
    with pytest.raises(ValueError, match="must run once"):
        watched.moments()
    with pytest.raises(AssertionError, match="Input height"), watched:
        model(images[..., :4, :])
    assert hooks() == 0
    with GradientMoments(model.blocks, "replace"):
        assert "forward" in vars(model.blocks[0].attn.qkv)
        late = cross_entropy(model(images), labels)
    assert "forward" not in vars(model.blocks[0].attn.qkv)
    before = model.blocks[0].attn.qkv.weight.grad.clone()
    late.backward()  # still the same gradient
    assert torch.allclose(model.blocks[0].attn.qkv.weight.grad, 2 * before)


@BOTH_MODES
def test_a_watched_step_under_autocast_keeps_no_second_copy_of_an_input(mode: str) -> None:
    """Count the bytes that autograd saves: those of a plain step, each tensor once."""

    def saved(context: contextlib.AbstractContextManager) -> int:
        kept = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):  # which is there anyway
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                alive.append(tensor)
            return tensor

        alive: list[Tensor] = []
        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(model(images), labels)
            loss.backward()
        return sum(kept.values())

    model, (images, labels) = vit(torch.float32), batch(torch.float32, samples=32)
    plain = saved(contextlib.nullcontext())
    assert saved(GradientMoments(model.blocks, mode)) <= plain
