"""Sums over the samples of a batch of a linear layer's gradient, and of its square.

With inputs ``a`` and output gradients ``delta`` the gradient of sample ``i`` is the product
``G_i = delta_i^T a_i`` over its tokens; the weight gradient of the batch is their sum, so one
product per sample gives both moments, and those of linked samples with them. All ``G_i`` at once
would take samples x out x in; here one scratch, small enough for the cache, holds them in turn.
"""

import importlib.util
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rectify.gsnr.links import Links

CPU_SCRATCH_BYTES = 2**18  # with two accumulators of its size it stays in a second cache
HAS_TRITON = importlib.util.find_spec("triton") is not None
GPU_SCRATCH_BYTES = 2**27  # each launch costs more than a scratch that leaves the cache


class Sums(NamedTuple):
    """Sums of a parameter's gradients, each of its shape, in float32 or wider."""

    total: Tensor
    """Over the samples."""
    squares: Tensor
    """Over the samples, of each one's square."""
    linked: Tensor | None = None
    """Over the ordered pairs of linked samples, of their products; None without links."""


def gradient_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    links: Links | None = None,
) -> Sums:
    """Return the sums of ``G_i``, (dim_out, dim_in), in float32, or float64 where ``delta`` is.

    Args:
        inputs: What went into the layer; taken to the precision of ``delta``.
        delta: Gradient of the loss by what came out. A float16 one is multiplied in float32.
        links: Which samples share something; None if all are independent.
    """
    inputs, delta = _same_precision(inputs, delta)
    if _shows_values(delta):
        inputs, delta = _without_idle_tokens(inputs, delta)
    if links is None:
        return _unlinked_sums(inputs, delta)
    if links.is_partition and _shows_values(delta) and delta.shape[1] > 1:
        return partition_sums(inputs, delta, links)
    sets = (
        weight * _unlinked_sums(*folded).squares for weight, folded in links.folded(inputs, delta)
    )
    return _unlinked_sums(inputs, delta)._replace(linked=sum(sets))


def _unlinked_sums(inputs: Tensor, delta: Tensor) -> Sums:
    if delta.shape[1] == 1:
        return _token_sums(inputs[:, 0], delta[:, 0])
    if not delta.is_cuda:
        return chunked_sums(inputs, delta)
    if delta.dtype != torch.float64 and HAS_TRITON:
        return Sums(*fused_sums(inputs, delta))
    return batched_sums(inputs, delta)


@torch.library.custom_op("rectify::fused_sums", mutates_args=())
def fused_sums(inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``gradient_sums`` by the Triton kernel; an operation that compiled models keep."""
    from rectify.gsnr.triton import gradient_sums as fused

    return fused(inputs, delta)


@fused_sums.register_fake
def _(inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    shape = delta.shape[-1], inputs.shape[-1]
    return tuple(delta.new_empty(shape, dtype=torch.float32) for _ in range(2))


def batched_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    chunk: int | None = None,
) -> Sums:
    """Return ``gradient_sums`` in few operations, each on a scratch of many samples: for GPUs.

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out, of the same precision.
        chunk: Samples at a time; by default as many as the scratch of the device allows.
    """
    shape, chunk, wide = _plan(inputs, delta, chunk)
    total, squares = delta.new_zeros(2, *shape, dtype=wide)
    for chunk_inputs, chunk_delta in zip(inputs.split(chunk), delta.split(chunk), strict=True):
        gradients = torch.bmm(chunk_delta.mT, chunk_inputs)
        total += gradients.sum(0, dtype=wide)
        squares += torch.linalg.vector_norm(gradients, dim=0, dtype=wide).square()
    return Sums(total, squares)


def chunked_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    chunk: int | None = None,
) -> Sums:
    """Return ``gradient_sums`` by products of ``chunk`` samples at a time, on any device.

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out, of the same precision.
        chunk: By default as many as the scratch of the device allows.
    """
    shape, chunk, wide = _plan(inputs, delta, chunk)
    scratch = delta.new_empty(chunk, *shape)
    total, squares = (delta.new_zeros(chunk, *shape, dtype=wide) for _ in range(2))
    for chunk_inputs, chunk_delta in zip(inputs.split(chunk), delta.split(chunk), strict=True):
        samples = len(chunk_delta)
        if samples == 1:  # a plain product is quicker than a batch of one
            gradients = torch.mm(chunk_delta[0].T, chunk_inputs[0], out=scratch[0])
        else:
            gradients = torch.bmm(chunk_delta.mT, chunk_inputs, out=scratch[:samples])
        total[:samples].add_(gradients)
        squares[:samples].addcmul_(gradients, gradients)
    return Sums(total[0], squares[0]) if chunk == 1 else Sums(total.sum(0), squares.sum(0))


def squared_norms(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    has_bias: bool = False,
) -> Float[Tensor, " samples"]:
    """Return the squared norm of each ``G_i``, by the cheaper of two exact ways.

    It is the sum over pairs of tokens ``t, s`` of ``(a_t . a_s) (delta_t . delta_s)``, which takes
    ``tokens^2 (dim_in + dim_out)`` multiplications where ``G_i`` itself takes
    ``tokens dim_in dim_out``. A bias is one more input, which is 1: it adds 1 to each
    ``a_t . a_s``.

    Args:
        inputs: What went into the layer; taken to the precision of ``delta``.
        delta: Gradient of the loss by what came out. A float16 one is multiplied in float32.
        has_bias: Whether the gradient of a bias belongs to ``G_i``.
    """
    inputs, delta = _same_precision(inputs, delta)
    if _shows_values(delta):
        inputs, delta = _without_idle_tokens(inputs, delta)
    (dim_out, dim_in), chunk, wide = _plan(inputs, delta, None)
    if delta.shape[1] * (dim_in + dim_out) <= dim_in * dim_out:
        products = torch.bmm(inputs, inputs.mT).add_(int(has_bias))
        return products.mul_(torch.bmm(delta, delta.mT)).sum((1, 2), dtype=wide)
    parts = [
        torch.linalg.vector_norm(torch.bmm(of_delta.mT, of_inputs), dim=(1, 2), dtype=wide)
        for of_inputs, of_delta in zip(inputs.split(chunk), delta.split(chunk), strict=True)
    ]
    norms = torch.cat(parts).square()
    return norms + delta.sum(1, dtype=wide).square().sum(1) if has_bias else norms


def partition_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    links: Links,
    chunk: int | None = None,
) -> Sums:
    """Return ``gradient_sums`` where linked samples form sets apart, set by set, on any device.

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out, of the same precision.
        links: A partition.
        chunk: Samples at a time, a set at least; by default what the scratch allows.
    """
    _, chunk, _ = _plan(inputs, delta, chunk)
    of_sizes = [
        _sums_of_sets(inputs, delta, rows, max(1, chunk // rows.shape[1]))
        for _, rows in links.rows()
    ]
    return Sums(*map(sum, zip(*of_sizes, strict=True)))


def _sums_of_sets(inputs: Tensor, delta: Tensor, all_rows: Tensor, count: int) -> Sums:
    """Return the sums over sets of samples, (sets, size), of which ``count`` are held at once."""
    size, shape = all_rows.shape[1], (delta.shape[-1], inputs.shape[-1])
    wide = torch.promote_types(delta.dtype, torch.float32)
    scratch = delta.new_empty(count * size, *shape)
    squares = delta.new_zeros(count * size, *shape, dtype=wide)
    of_set, total, linked = delta.new_zeros(3, count, *shape, dtype=wide)
    for rows in all_rows.split(count):
        sets, samples = len(rows), rows.flatten()
        gradients = scratch[: len(samples)]
        if sets == 1:  # plain products need no copy of what they multiply
            for sample, product in zip(samples.tolist(), gradients, strict=True):
                torch.mm(delta[sample].T, inputs[sample], out=product)
        else:
            torch.bmm(delta[samples].mT, inputs[samples], out=gradients)
        squares[: len(samples)].addcmul_(gradients, gradients)
        torch.sum(gradients.unflatten(0, rows.shape), 1, dtype=wide, out=of_set[:sets])
        total[:sets].add_(of_set[:sets])
        linked[:sets].addcmul_(of_set[:sets], of_set[:sets])
    return Sums(total.sum(0), squares.sum(0), linked.sum(0))


def _shows_values(values: Tensor) -> bool:
    """Return whether values can be looked at: a device would be waited for, a compiler has none."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


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


def _token_sums(inputs: Tensor, delta: Tensor) -> Sums:
    """The outer product of single tokens squares term by term: two products for the batch."""
    wide = torch.promote_types(delta.dtype, torch.float32)
    inputs, delta = inputs.to(wide), delta.to(wide)
    return Sums(delta.T @ inputs, delta.square().T @ inputs.square())


def _plan(
    inputs: Tensor, delta: Tensor, chunk: int | None
) -> tuple[tuple[int, int], int, torch.dtype]:
    """Return the shape of a gradient, samples at a time, and the precision of sums."""
    shape = delta.shape[-1], inputs.shape[-1]
    if not chunk:
        limit = GPU_SCRATCH_BYTES if delta.is_cuda else CPU_SCRATCH_BYTES
        chunk = min(len(delta), max(1, limit // (shape[0] * shape[1] * delta.element_size())))
    return shape, chunk, torch.promote_types(delta.dtype, torch.float32)
