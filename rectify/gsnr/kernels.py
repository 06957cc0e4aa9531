"""Sums over the samples of a batch of a linear layer's gradient, and of its square.

With inputs ``a`` and output gradients ``delta`` the gradient of sample ``i`` is the product
``G_i = delta_i^T a_i`` over its tokens; the weight gradient of the batch is their sum, so one
product per sample gives both moments. All ``G_i`` at once would take samples x out x in; here
one scratch, small enough for the cache, holds them in turn.
"""

import importlib.util

import torch
from jaxtyping import Float
from torch import Tensor

CPU_SCRATCH_BYTES = 2**18  # with two accumulators of its size it stays in a second cache
GPU_SCRATCH_BYTES = 2**25


def gradient_sums(
    inputs: Float[Tensor, "samples tokens dim_in"], delta: Float[Tensor, "samples tokens dim_out"]
) -> tuple[Float[Tensor, "dim_out dim_in"], Float[Tensor, "dim_out dim_in"]]:
    """Return ``sum_i G_i`` and ``sum_i G_i^2``, in float32, or float64 where ``delta`` is.

    Args:
        inputs: What went into the layer; taken to the precision of ``delta``.
        delta: Gradient of the loss by what came out. A float16 one is multiplied in float32.
    """
    inputs, delta = _same_precision(inputs, delta)
    if not delta.is_cuda:
        inputs, delta = _without_idle_tokens(inputs, delta)
    if delta.shape[1] == 1:
        return _token_sums(inputs[:, 0], delta[:, 0])
    if delta.is_cuda and delta.dtype != torch.float64 and _has_triton():
        from rectify.gsnr.triton import gradient_sums as fused

        return fused(inputs, delta)
    return chunked_sums(inputs, delta)


def chunked_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    chunk: int | None = None,
) -> tuple[Float[Tensor, "dim_out dim_in"], Float[Tensor, "dim_out dim_in"]]:
    """Return ``gradient_sums`` by products of ``chunk`` samples at a time, on any device.

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out, of the same precision.
        chunk: By default as many as the scratch of the device allows.
    """
    shape = delta.shape[-1], inputs.shape[-1]
    chunk = chunk or _samples_at_a_time(delta, shape[0] * shape[1])
    scratch = delta.new_empty(chunk, *shape)
    wide = torch.promote_types(delta.dtype, torch.float32)
    total, squares = (delta.new_zeros(chunk, *shape, dtype=wide) for _ in range(2))
    for chunk_inputs, chunk_delta in zip(inputs.split(chunk), delta.split(chunk), strict=True):
        samples = len(chunk_delta)
        if samples == 1:  # a plain product is quicker than a batch of one
            gradients = torch.mm(chunk_delta[0].T, chunk_inputs[0], out=scratch[0])
        else:
            gradients = torch.bmm(chunk_delta.mT, chunk_inputs, out=scratch[:samples])
        total[:samples].add_(gradients)
        squares[:samples].addcmul_(gradients, gradients)
    return (total[0], squares[0]) if chunk == 1 else (total.sum(0), squares.sum(0))


def _same_precision(inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """float16 cannot hold gradients of 1e-8; bfloat16 has the exponents of float32."""
    dtype = torch.float32 if delta.dtype == torch.float16 else delta.dtype
    return inputs.to(dtype), delta.to(dtype)


def _without_idle_tokens(inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out tokens without any gradient: in a ViT's last block all but the class token."""
    if delta[:, -1].any():
        return inputs, delta
    active = delta.any(-1).any(0)
    active[0] = True  # at least one
    return inputs[:, active], delta[:, active]


def _token_sums(inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """The outer product of single tokens squares term by term: two products for the batch."""
    wide = torch.promote_types(delta.dtype, torch.float32)
    inputs, delta = inputs.to(wide), delta.to(wide)
    return delta.T @ inputs, delta.square().T @ inputs.square()


def _samples_at_a_time(delta: Tensor, entries: int) -> int:
    limit = GPU_SCRATCH_BYTES if delta.is_cuda else CPU_SCRATCH_BYTES
    return min(len(delta), max(1, limit // (entries * delta.element_size())))


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
