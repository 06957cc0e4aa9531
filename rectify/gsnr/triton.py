"""The sums of ``rectify.gsnr.kernels`` as one Triton kernel: product, square and sum on the chip.

A program owns one tile of the weight and a slab of the samples. For each sample it multiplies
the tile over the tokens, adds the product and its square to two accumulators in registers;
no sample's gradient is ever written to memory. Few tiles would leave a GPU idle, so the
samples are split into slabs whose sums are added afterwards, always in the same order.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

TILE_OUT, TILE_IN, TILE_TOKENS = 64, 64, 32
PROGRAMS_PER_PROCESSOR = 2


def gradient_sums(
    inputs: Float[Tensor, "samples tokens dim_in"],
    delta: Float[Tensor, "samples tokens dim_out"],
    slabs: int | None = None,
) -> tuple[Float[Tensor, "dim_out dim_in"], Float[Tensor, "dim_out dim_in"]]:
    """Return ``sum_i G_i`` and ``sum_i G_i^2`` in float32, products in full precision (no TF32).

    Args:
        inputs: What went into the layer.
        delta: Gradient by what came out, of the same precision: float32, bfloat16 or float16.
        slabs: Parts of the batch that are summed side by side; by default enough for the GPU.
    """
    samples, tokens, rows = delta.shape
    columns = inputs.shape[-1]
    slabs = slabs or _slabs(delta, columns)
    sums = delta.new_empty(2, slabs, rows, columns, dtype=torch.float32)
    grid = (triton.cdiv(rows, TILE_OUT), triton.cdiv(columns, TILE_IN), slabs)
    _slab_sums[grid](
        inputs, delta, sums[0], sums[1],
        samples, tokens, rows, columns, triton.cdiv(samples, slabs),
        *inputs.stride(), *delta.stride(), *sums[0].stride(),
        TILE_OUT=TILE_OUT, TILE_IN=TILE_IN, TILE_TOKENS=TILE_TOKENS,
    )  # fmt: skip
    return sums[0].sum(0), sums[1].sum(0)


@triton.jit
def _slab_sums(
    inputs, delta, total_sums, square_sums,
    samples, tokens, rows, columns, samples_per_slab,
    inputs_sample, inputs_token, inputs_column,
    delta_sample, delta_token, delta_row,
    sums_slab, sums_row, sums_column,
    TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr, TILE_TOKENS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * TILE_OUT + tl.arange(0, TILE_OUT)
    column = tl.program_id(1) * TILE_IN + tl.arange(0, TILE_IN)
    slab = tl.program_id(2)
    total = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    squares = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    first = slab * samples_per_slab
    inputs += first.to(tl.int64) * inputs_sample
    delta += first.to(tl.int64) * delta_sample
    for _ in range(first, tl.minimum(first + samples_per_slab, samples)):
        gradient = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
        for start in range(0, tokens, TILE_TOKENS):
            token = start + tl.arange(0, TILE_TOKENS)
            delta_tile = tl.load(
                delta + row[:, None] * delta_row + token[None, :] * delta_token,
                mask=(row[:, None] < rows) & (token[None, :] < tokens),
                other=0.0,
            )  # (out, tokens)
            inputs_tile = tl.load(
                inputs + token[:, None] * inputs_token + column[None, :] * inputs_column,
                mask=(token[:, None] < tokens) & (column[None, :] < columns),
                other=0.0,
            )  # (tokens, in)
            gradient = tl.dot(delta_tile, inputs_tile, gradient, input_precision="ieee")
        total += gradient
        squares += gradient * gradient
        inputs += inputs_sample
        delta += delta_sample
    offsets = (
        slab.to(tl.int64) * sums_slab + row[:, None] * sums_row + column[None, :] * sums_column
    )
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(total_sums + offsets, total, mask=inside)
    tl.store(square_sums + offsets, squares, mask=inside)


def _slabs(delta: Tensor, columns: int) -> int:
    tiles = triton.cdiv(delta.shape[-1], TILE_OUT) * triton.cdiv(columns, TILE_IN)
    processors = torch.cuda.get_device_properties(delta.device).multi_processor_count
    return min(len(delta), max(1, PROGRAMS_PER_PROCESSOR * processors // tiles))
