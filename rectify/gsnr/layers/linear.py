"""Linear layers: the gradient of a sample is a product over its tokens.

Its sum over the samples is also the gradient that trains, so that autograd's own product can be
left out (``replace``).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import linear

from rectify.gsnr.contract import (
    LayerType,
    Sums,
    norms_of_products,
    norms_of_tokens,
    sums_of_products,
    sums_of_tokens,
)
from rectify.gsnr.links import Links
from rectify.gsnr.tap import Gather, cast_inputs, tap


class Linear(LayerType):
    """``weight`` and ``bias`` of a linear layer, for any number of tokens."""

    modules = (nn.Linear,)
    title = "Linear"
    parameters = ("weight", "bias")
    is_autocast = True

    def sums(
        self,
        module: nn.Linear,
        name: str,
        inputs: Float[Tensor, "samples *tokens dim_in"],
        delta: Float[Tensor, "samples *tokens dim_out"],
        links: Links | None,
    ) -> Sums:
        if name == "bias":
            return sums_of_tokens(delta, module.bias, links)
        return sums_of_products(inputs, delta, module.weight, links)

    def norms_of_sets(
        self,
        module: nn.Module,
        names: Sequence[str],
        inputs: Float[Tensor, "samples *tokens dim_in"],
        delta: Float[Tensor, "samples *tokens dim_out"],
        size: int,
    ) -> Float[Tensor, " sets"]:
        if "weight" in names:
            return norms_of_products(inputs, delta, size, has_bias="bias" in names)
        return norms_of_tokens(delta, module.bias, size)

    @contextlib.contextmanager
    def tap(self, module: nn.Linear, gather: Gather) -> Iterator[None]:
        """Tap the product before it is folded back into samples: a view would be copied."""

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            (inputs,) = (*args, *kwargs.values())
            inputs = cast_inputs(inputs)
            rows = inputs.reshape(-1, inputs.shape[-1])
            product = linear(rows, module.weight, module.bias)
            shape = torch.Size((*inputs.shape[:-1], product.shape[-1]))
            output = tap(product, inputs.detach(), gather, shape)
            return product.view(shape) if output is None else output

        with _instead_of(module, forward, gather):
            yield

    def can_replace(self, trainable: Sequence[str]) -> bool:
        return "weight" in trainable

    @contextlib.contextmanager
    def replace(
        self, module: nn.Linear, trainable: Sequence[str], gather: Gather
    ) -> Iterator[None]:
        parameters = [getattr(module, name) for name in trainable]

        def forward(*args: Tensor, **kwargs: Tensor) -> Tensor:
            (inputs,) = (*args, *kwargs.values())
            output = _Replaced.apply(
                cast_inputs(inputs), module, trainable, gather, *parameters, *gather.slots
            )
            if output.requires_grad:
                gather.note(output)
            return output

        with _instead_of(module, forward, gather):
            yield


@contextlib.contextmanager
def _instead_of(
    module: nn.Module, forward: Callable[..., Tensor], gather: Gather
) -> Iterator[None]:
    """Let a module compute ``forward`` in place of what its class computes.

    Without slots it is not compiled: compiled code would not call ``gather``.
    """
    module.forward = forward if gather.slots else torch.compiler.disable(forward)
    try:
        yield
    finally:
        del module.forward


class _Replaced(torch.autograd.Function):
    """A linear layer whose weight and bias gradients are the sums that ``gather`` returns."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        inputs: Tensor,
        module: nn.Linear,
        trainable: Sequence[str],
        gather: Gather,
        *parameters_and_slots: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(inputs, module.weight)
        ctx.trainable, ctx.gather = trainable, gather
        return linear(inputs, module.weight, module.bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: FunctionCtx, delta: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        totals, of_slots = ctx.gather(inputs, delta)
        gradients = [totals[name].to(weight.dtype) for name in ctx.trainable]
        by_inputs = delta @ weight.to(delta.dtype) if ctx.needs_input_grad[0] else None
        return by_inputs, None, None, None, *gradients, *of_slots
