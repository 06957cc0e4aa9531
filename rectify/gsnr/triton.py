"""The sums of ``rectify.gsnr.kernels`` as one Triton kernel: product, square and sum on the chip.

A program owns one tile of the weight and a slab of the samples. For each sample it multiplies
the tile over the tokens, adds the product and its square to two accumulators in registers;
no sample's gradient is ever written to memory. Few tiles would leave a GPU idle, so the
samples are split into slabs whose sums are added afterwards, always in the same order.

What limits it is how early the next tokens are on their way. Few tokens are read whole, sample by
sample; many in steps of one loop that runs over the samples too, so that it never stops between
two of them.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

FEW_TOKENS = 128  # of a sample, which are read whole
STEP = 64  # tokens of one product
LEAST_STEP = 16  # what tensor cores multiply
MOST_SLABS = 16
SLAB_COST = 1300  # tokens in whose time one more slab is written and added, seen on an H100


class Tiling(NamedTuple):
    """How a weight is divided, and how many warps and reads ahead a program has."""

    rows: int
    columns: int
    warps: int
    stages: int
    cost: float
    """Time for each entry of a tile, relative to the first tiling's."""


HALF = (Tiling(128, 128, 8, 4, 1.0), Tiling(128, 64, 4, 3, 1.12), Tiling(64, 64, 4, 4, 1.5))
SINGLE = (Tiling(64, 64, 4, 2, 1.0),)  # float32 has no tensor cores that keep its precision


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
    columns, size = inputs.shape[-1], delta.element_size()
    plan = planned(samples, tokens, rows, columns, size, delta.device, slabs)
    sums = delta.new_empty(2, plan.grid[2], rows, columns, dtype=torch.float32)
    _slab_sums[plan.grid](
        inputs, delta, sums[0], sums[1],
        samples, tokens, rows, columns, plan.samples_per_slab,
        *inputs.stride(), *delta.stride(), *sums.stride()[1:],
        **plan.options,
    )  # fmt: skip
    return sums[0].sum(0), sums[1].sum(0)


class Plan(NamedTuple):
    """How one shape is summed on one device."""

    grid: tuple[int, int, int]
    samples_per_slab: int
    options: dict[str, int | bool]
    """What the kernel is compiled for and with."""


@functools.cache
def planned(
    samples: int,
    tokens: int,
    rows: int,
    columns: int,
    size: int,
    device: torch.device,
    slabs: int | None,
) -> Plan:
    """Return the plan of a shape; ``size`` is the bytes of a number."""
    tiling = best_tiling(rows, columns, HALF if size == 2 else SINGLE)
    processors, shared = _chip(device)
    down, across = triton.cdiv(rows, tiling.rows), triton.cdiv(columns, tiling.columns)
    slabs = slabs or best_slabs(down * across, samples, tokens, processors)
    fixed = constants(tokens, rows, columns, tiling)
    ahead = {"num_warps": tiling.warps, "num_stages": stages(tiling, fixed, size, shared)}
    return Plan((down, across, slabs), triton.cdiv(samples, slabs), fixed | ahead)


def constants(tokens: int, rows: int, columns: int, tiling: Tiling) -> dict[str, int | bool]:
    """Return what the kernel is compiled for."""
    step = STEP if tiling in HALF else STEP // 2
    is_short = tokens <= FEW_TOKENS and tiling in HALF
    whole, rest = divmod(tokens, step) if is_short else (0, 0)
    return {
        "TILE_OUT": tiling.rows,
        "TILE_IN": tiling.columns,
        "STEP": step,
        "STEPS": whole if is_short else triton.cdiv(tokens, step),
        "REST": max(LEAST_STEP, triton.next_power_of_2(rest)) if rest else 0,
        "IS_SHORT": is_short,
        "IS_EVEN": rows % tiling.rows == 0 and columns % tiling.columns == 0,
    }


def stages(tiling: Tiling, fixed: Mapping[str, int | bool], size: int, shared: int) -> int:
    """Return how many reads are under way at once: as many as fit into a processor's memory.

    Args:
        tiling: Of the weight.
        fixed: What ``constants`` returned.
        size: Bytes of a number.
        shared: Bytes that a program may use.
    """
    tokens = fixed["STEP"] * (fixed["STEPS"] if fixed["IS_SHORT"] else 1) + fixed["REST"]
    return max(1, min(tiling.stages, shared // (tokens * (tiling.rows + tiling.columns) * size)))


def best_tiling(rows: int, columns: int, tilings: tuple[Tiling, ...]) -> Tiling:
    """Return the tiling that takes the least time: what lies over the weight's edge counts too."""

    def time(tiling: Tiling) -> float:
        tiles = triton.cdiv(rows, tiling.rows) * triton.cdiv(columns, tiling.columns)
        return tiles * tiling.rows * tiling.columns * tiling.cost

    return min(tilings, key=time)


def best_slabs(tiles: int, samples: int, tokens: int, processors: int) -> int:
    """Return the number of slabs that keeps the processors busy to the end, and is not too many."""

    def time(slabs: int) -> float:
        waves = triton.cdiv(tiles * slabs, processors)
        products = waves * processors / tiles * triton.cdiv(samples, slabs) * tokens
        return products + SLAB_COST * slabs

    return min(range(1, min(samples, MOST_SLABS) + 1), key=time)


def _chip(device: torch.device) -> tuple[int, int]:
    """Return how many processors a GPU has, and the bytes of shared memory of a program."""
    if device.type == "cpu":  # Triton's interpreter
        return 1, 2**17
    facts = torch.cuda.get_device_properties(device)
    return facts.multi_processor_count, facts.shared_memory_per_block_optin - 2**10


@triton.jit
def _tile(
    values, token, tokens, token_stride, entry, entries, entry_stride,
    IS_WHOLE: tl.constexpr, IS_EVEN: tl.constexpr,
):  # fmt: skip
    """Read (tokens, entries); 0 beyond the edges, which are looked for only where there are."""
    places = values + token[:, None] * token_stride + entry[None, :] * entry_stride
    if IS_WHOLE and IS_EVEN:
        return tl.load(places)
    if IS_EVEN:
        return tl.load(places, mask=token[:, None] < tokens, other=0.0)
    inside = (token[:, None] < tokens) & (entry[None, :] < entries)
    return tl.load(places, mask=inside, other=0.0)


@triton.jit
def _slab_sums(
    inputs, delta, total_sums, square_sums,
    samples, tokens, rows, columns, samples_per_slab,
    inputs_sample, inputs_token, inputs_column,
    delta_sample, delta_token, delta_row,
    sums_slab, sums_row, sums_column,
    TILE_OUT: tl.constexpr, TILE_IN: tl.constexpr,
    STEP: tl.constexpr, STEPS: tl.constexpr, REST: tl.constexpr,
    IS_SHORT: tl.constexpr, IS_EVEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * TILE_OUT + tl.arange(0, TILE_OUT)
    column = tl.program_id(1) * TILE_IN + tl.arange(0, TILE_IN)
    slab = tl.program_id(2)
    total = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    squares = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    first = slab.to(tl.int64) * samples_per_slab  # wide, as what it is multiplied with may be large
    last = tl.minimum(first + samples_per_slab, samples)
    if IS_SHORT:
        for sample in tl.range(first, last):
            sample_inputs = inputs + sample * inputs_sample
            sample_delta = delta + sample * delta_sample
            gradient = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
            for part in tl.static_range(STEPS):
                token = part * STEP + tl.arange(0, STEP)
                left = _tile(sample_delta, token, tokens, delta_token,
                             row, rows, delta_row, True, IS_EVEN)  # fmt: skip
                right = _tile(sample_inputs, token, tokens, inputs_token,
                              column, columns, inputs_column, True, IS_EVEN)  # fmt: skip
                gradient = tl.dot(tl.trans(left), right, gradient, input_precision="ieee")
            if REST > 0:
                token = STEPS * STEP + tl.arange(0, REST)
                left = _tile(sample_delta, token, tokens, delta_token,
                             row, rows, delta_row, False, IS_EVEN)  # fmt: skip
                right = _tile(sample_inputs, token, tokens, inputs_token,
                              column, columns, inputs_column, False, IS_EVEN)  # fmt: skip
                gradient = tl.dot(tl.trans(left), right, gradient, input_precision="ieee")
            total += gradient
            squares += gradient * gradient
    else:
        gradient = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
        for step in tl.range(first * STEPS, last * STEPS):
            sample, part = step // STEPS, step % STEPS
            token = part * STEP + tl.arange(0, STEP)
            left = _tile(delta + sample * delta_sample, token, tokens, delta_token,
                         row, rows, delta_row, False, IS_EVEN)  # fmt: skip
            right = _tile(inputs + sample * inputs_sample, token, tokens,
                          inputs_token, column, columns, inputs_column, False, IS_EVEN)  # fmt: skip
            gradient = tl.dot(tl.trans(left), right, gradient, input_precision="ieee")
            if part == STEPS - 1:
                total += gradient
                squares += gradient * gradient
                gradient = tl.zeros((TILE_OUT, TILE_IN), dtype=tl.float32)
    places = slab.to(tl.int64) * sums_slab + row[:, None] * sums_row + column[None, :] * sums_column
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    tl.store(total_sums + places, total, mask=inside)
    tl.store(square_sums + places, squares, mask=inside)
