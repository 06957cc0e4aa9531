"""A tap behind a layer: it passes the gradient on as it is, and shows it to the measurement.

It is an autograd function, so recomputation (gradient checkpointing) and autocast see an
ordinary operation.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class Gathered(NamedTuple):
    """What a tap gives back to a backward pass."""

    totals: Mapping[str, Tensor]
    """Sums over the samples, which are gradients of the loss, by parameter."""
    of_slots: tuple[Tensor, ...] = ()
    """Gradients of the slots."""


class Gather(ABC):
    """Where a tap puts what it sees.

    Attributes:
        slots: Tensors that nothing is computed from: a backward pass returns the sums as their
            gradients, which a compiled model can do; empty where the tap is called instead.
    """

    slots: tuple[Tensor, ...] = ()

    @abstractmethod
    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        """Take what went into a layer and the gradient by what came out."""

    @abstractmethod
    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        """Take note of what came out of a layer, or went in.

        Args:
            values: In the graph of this pass.
            axis: Of the samples.
            rows: How many samples, where several entries of the axis are of one.
        """


class Tap(torch.autograd.Function):
    """The identity; hands a layer's inputs and the gradient by its output to ``gather``.

    It returns the output itself, no view, which an operation in place could not follow.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        output: Tensor,
        inputs: Tensor | None,
        gather: Gather,
        shape: torch.Size,
        *slots: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.gather, ctx.shape = gather, shape
        if slots:
            return output.clone()  # no view, which a compiler would repeat behind the tap
        ctx.mark_dirty(output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, delta: Tensor) -> tuple[Tensor | None, ...]:
        _, of_slots = ctx.gather(*ctx.saved_tensors, delta.view(ctx.shape))
        return delta, None, None, None, *of_slots


def tap(
    output: Tensor, inputs: Tensor | None, gather: Gather, shape: torch.Size | None = None
) -> Tensor | None:
    """Return the output with a tap behind it; None if no gradient will reach it.

    Args:
        output: Of a layer.
        inputs: Of the layer.
        gather: Where the tap puts what it sees.
        shape: What the output is returned as; by default it is left as it is.
    """
    if not output.requires_grad:
        return None
    tapped = Tap.apply(output, inputs, gather, shape or output.shape, *gather.slots)
    if shape is None:
        gather.note(tapped)
        return tapped
    gather.note(tapped, rows=shape[0])  # an operation in place would take a view from the graph
    return tapped.view(shape)


@contextlib.contextmanager
def tapped(module: nn.Module, gather: Gather, *, is_autocast: bool) -> Iterator[None]:
    """Keep a tap behind ``module``.

    Args:
        module: Called with one tensor, by place or by keyword.
        gather: Called in each backward pass.
        is_autocast: Whether autocast casts the module's inputs.
    """

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple[Tensor], dict]:
        (inputs,) = (*args, *kwargs.values())
        return (cast_inputs(inputs) if is_autocast else inputs,), {}

    def behind(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        return tap(output, args[0].detach(), gather)

    with (
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(behind, prepend=True),  # others may change the output
    ):
        yield


def cast_inputs(inputs: Tensor) -> Tensor:
    """Cast the inputs the way autocast will, so that autograd and the tap save the same tensor."""
    device = inputs.device.type
    if not torch.is_autocast_enabled(device) or inputs.dtype == torch.float64:
        return inputs
    return inputs.to(torch.get_autocast_dtype(device))
