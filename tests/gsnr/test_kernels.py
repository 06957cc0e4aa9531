"""The sums of per-sample gradients: every way of forming them against one float64 product."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rectify.gsnr.kernels import (
    Sums,
    batched_sums,
    chunked_sums,
    gradient_sums,
    partition_sums,
)
from rectify.gsnr.links import Links
from tests.helpers.sums import assert_sums


def batch(dtype: torch.dtype, samples: int = 5, tokens: int = 7) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(samples, tokens, 6, generator=draws, dtype=torch.float64)
    delta = torch.randn(samples, tokens, 9, generator=draws, dtype=torch.float64)
    return inputs.to(dtype), delta.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        (torch.float64, 1e-14),
        (torch.float32, 1e-6),
        (torch.bfloat16, 1e-2),
        (torch.float16, 1e-6),  # multiplied in float32
    ],
)
def test_the_sums_equal_one_product_in_float64(dtype: torch.dtype, limit: float) -> None:
    inputs, delta = batch(dtype)
    found = gradient_sums(inputs, delta)
    assert_sums(found, inputs, delta, limit)
    assert found[0].dtype == found[1].dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("chunk", [1, 2, 4, 5, None])
@pytest.mark.parametrize("way", [chunked_sums, batched_sums])
def test_the_number_of_samples_at_a_time_changes_nothing(
    way: Callable[..., Sums], chunk: int | None
) -> None:
    inputs, delta = batch(torch.float64)
    assert_sums(way(inputs, delta, chunk), inputs, delta, 1e-14)


SHARED = {
    "partners": [[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]],
    "three sizes": [[5], [5], [3], [1], [3], [3]],
    "alone": [[0], [1], [2], [3], [4], [5]],
    "partners of copies": [[0, 2], [0, 2], [1, 1], [1, 1], [2, 0], [2, 0]],
    "a chain": [[0, 1], [0, 1], [0, 0], [1, 0], [1, 0], [1, 0]],
    "a chain without end": [[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 6]],
    "three each": [[0, 1, 2], [1, 2, 3], [4, 5, 6], [0, 2, 6], [7, 8, 9], [1, 2, 0]],
}
LINKS = pytest.mark.parametrize("origins", SHARED.values(), ids=SHARED)


@LINKS
def test_a_pair_is_linked_once_however_much_it_shares(origins: list[list[int]]) -> None:
    pairs = [(i, j) for i in range(6) for j in range(6) if set(origins[i]) & set(origins[j])]
    assert Links(torch.tensor(origins)).pairs == len(pairs)


@LINKS
@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.bfloat16, 1e-2)])
def test_the_products_of_linked_samples(
    origins: list[list[int]], tokens: int, dtype: torch.dtype, limit: float
) -> None:
    inputs, delta = batch(dtype, samples=6, tokens=tokens)
    found = gradient_sums(inputs, delta, Links(torch.tensor(origins)))
    assert_sums(found, inputs, delta, limit, origins)
    assert found.linked.dtype == torch.promote_types(dtype, torch.float32)


@pytest.mark.parametrize("shared", ["partners", "three sizes", "alone", "partners of copies"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 6, None])
def test_sets_apart_are_summed_in_one_pass(shared: str, chunk: int | None) -> None:
    inputs, delta = batch(torch.float64, samples=6)
    links = Links(torch.tensor(SHARED[shared]))
    assert links.is_partition
    found = partition_sums(inputs, delta, links, chunk)
    assert_sums(found, inputs, delta, 1e-14, SHARED[shared])


@pytest.mark.parametrize("shared", ["a chain without end", "three each"])
def test_links_that_overlap_are_no_partition(shared: str) -> None:
    assert not Links(torch.tensor(SHARED[shared])).is_partition


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_single_tokens_are_summed_without_their_products(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("rectify.gsnr.kernels.chunked_sums")
    inputs, delta = batch(dtype, tokens=1)
    limit = 1e-14 if dtype == torch.float64 else 1e-6  # bfloat16 is squared in float32
    assert_sums(gradient_sums(inputs, delta), inputs, delta, limit)


@pytest.mark.parametrize("active", [[0], [2], [1, 4], []])
def test_tokens_without_gradient_do_not_count(active: list[int]) -> None:
    inputs, delta = batch(torch.float64)
    idle = [token for token in range(7) if token not in active]
    delta[:, idle] = 0
    assert_sums(gradient_sums(inputs, delta), inputs, delta, 1e-14)


def test_an_infinite_gradient_is_not_lost() -> None:
    inputs, delta = batch(torch.float64)
    delta[:, -1] = 0
    delta[2, 3, 1] = torch.nan
    assert gradient_sums(inputs, delta)[1][1].isnan().all()


def test_no_more_than_the_scratch_is_held_at_once() -> None:
    """Count what the function allocates: two accumulators, a scratch and the results."""
    inputs, delta = torch.randn(64, 3, 200), torch.randn(64, 3, 300)
    with torch.profiler.profile(profile_memory=True) as profile:
        gradient_sums(inputs, delta)
    one = 4 * 200 * 300
    assert sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages()) < 5 * one


INTERPRETED = """
import torch
from rectify.gsnr.kernels import fused_sums
from rectify.gsnr.triton import gradient_sums
from tests.helpers.sums import assert_sums

draws = torch.Generator().manual_seed(0)
for dtype in (torch.float32, torch.float16):
    for tokens in (37, 64, 65, 130):  # read whole or in steps; with a rest and without
        inputs = torch.randn(5, tokens, 70, generator=draws).to(dtype)
        delta = torch.randn(5, tokens, 90, generator=draws).to(dtype)
        views = inputs[:, ::2, 1:7], delta[:, ::2, 80:89]  # neither contiguous nor a whole tile
        for slabs in (1, 2, 3, 5):
            assert_sums(gradient_sums(inputs, delta, slabs), inputs, delta, 2e-6)
        assert_sums(gradient_sums(*views, 2), *views, 2e-6)
        even = torch.randn(3, tokens, 128).to(dtype), torch.randn(3, tokens, 128).to(dtype)
        assert_sums(gradient_sums(*even, 2), *even, 2e-6)
pair = torch.randn(3, 9, 20), torch.randn(3, 9, 30)
assert_sums(fused_sums(*pair), *pair, 1e-6)
torch.library.opcheck(fused_sums, pair, test_utils=("test_schema", "test_faketensor"))
print("equal")
"""


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rectify.gsnr.triton import HALF, SINGLE, _slab_sums, constants, stages

for precision, size, tilings in (("fp32", 4, SINGLE), ("bf16", 2, HALF), ("fp16", 2, HALF)):
    for tiling in tilings:
        for tokens, architecture, shared in ((65, 80, 166_000), (197, 90, 231_000)):
            fixed = constants(tokens, 384, 200, tiling)
            kinds = dict.fromkeys(_slab_sums.arg_names, "i32") | dict.fromkeys(fixed, "constexpr")
            kinds |= dict.fromkeys(("inputs", "delta"), f"*{precision}")
            kinds |= dict.fromkeys(("total_sums", "square_sums"), "*fp32")
            source = ASTSource(_slab_sums, kinds, constexprs=fixed)
            ahead = stages(tiling, fixed, size, shared)
            options = {"num_warps": tiling.warps, "num_stages": ahead}
            target = GPUTarget("cuda", architecture, 32)
            compiled = triton.compile(source, target=target, options=options)
            assert ("mma" in compiled.asm["ptx"]) == (precision != "fp32")
            assert compiled.metadata.shared <= shared, (tiling, tokens, architecture)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "interpret"), [(INTERPRETED, "1"), (COMPILED, "0")])
def test_the_triton_kernel_without_a_gpu(script: str, interpret: str, tmp_path: Path) -> None:
    """It gives the same sums in Triton's interpreter, which lacks bfloat16 products; and the
    compiler makes code of it for A100 (8.0) and H100 (9.0), by tensor cores but for float32.

    In processes of their own, since Triton reads the source that the annotation checks change.
    """
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds only")
    own = {"TRITON_INTERPRET": interpret, "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | own, check=False
    )
    assert ended.stdout.strip() == "equal", ended.stderr


@pytest.mark.parametrize(("samples", "tokens", "processors"), [(256, 65, 132), (7, 5, 108)])
@pytest.mark.parametrize("tiles", [1, 9, 36, 400])
def test_no_other_number_of_slabs_would_end_earlier(
    samples: int, tokens: int, processors: int, tiles: int
) -> None:
    """Against a count of what each processor does, program by program."""
    pytest.importorskip("triton", reason="Triton comes with torch's CUDA builds only")
    from rectify.gsnr.triton import MOST_SLABS, SLAB_COST, best_slabs

    def end(slabs: int) -> float:
        busy = [0] * processors
        for _ in range(tiles * slabs):
            busy[busy.index(min(busy))] += -(-samples // slabs) * tokens
        return max(busy) * processors / tiles + SLAB_COST * slabs

    chosen = best_slabs(tiles, samples, tokens, processors)
    ends = [end(slabs) for slabs in range(1, min(samples, MOST_SLABS) + 1)]
    assert end(chosen) == pytest.approx(min(ends))
