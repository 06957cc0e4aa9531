"""How fast a variant of a trunk is and how much memory it takes, for a batch.

A training step is forward, loss, backward and an AdamW step; at test time the auxiliary variant
is the plain ViT. Weights and images are random, and matrices of the frozen layer have 2 bytes
per value under bfloat16, as in published checkpoints.
"""

import contextlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rectify.controls import VARIANTS
from rectify.cost import Design, Losses, Row, build, counts, parameters, training_loss
from rectify.runtime import autocast, compiled
from rectify.tasks.contract import Batch
from rectify.trunks.trunk import Outputs

PASSES = 5  # timed, after one that is not
AT_TEST = ("test_images_per_second", "test_peak_bytes")


class Speed(NamedTuple):
    """The measured columns of a ``COST`` table; a peak is None where it is unknown."""

    training_images_per_second: float
    training_peak_bytes: int | None
    test_images_per_second: float
    test_peak_bytes: int | None


def measure(
    design: Design, variant: str, *, batch_size: int, precision: str, device: torch.device
) -> Speed:
    """Return speed and peak memory of a variant.

    Args:
        design: The trunk and the layer in it.
        variant: A key of ``rectify.controls.VARIANTS``.
        batch_size: Items of a step.
        precision: ``float32`` or ``bfloat16``, as in training.
        device: Where steps are timed.

    Raises:
        ValueError: If a name or size is not as it must be, or memory is too small.
    """
    if batch_size < 1:
        raise ValueError(
            f"cost: batch_size must be at least 1, got {batch_size}. Correct --batch-size."
        )
    model = build(design, variant)
    check_memory(4 * parameters(model.trained), device)
    fill(model.trained, precision, device)
    batch = design.batch(batch_size, device)
    with autocast(device, precision):
        step = _training_step(model.trained, batch, design.losses)
        seconds, peak = _measured(step, device)
        test_seconds, test_peak = _measured(_test_step(model.tested, batch), device)
    return Speed(batch_size / seconds, peak, batch_size / test_seconds, test_peak)


def variants(
    design: Design, *, is_timed: bool, batch_size: int, precision: str, device: torch.device
) -> list[Row]:
    """Return the columns of every variant: what is counted, and where timed, what is measured.

    At test time the auxiliary variant is the plain trunk, and has its numbers: those of a second
    measurement would differ by noise, and by the frozen layer that is still in memory.
    """
    how = {"batch_size": batch_size, "precision": precision, "device": device}
    rows = [
        {
            "variant": variant,
            **counts(design, variant)._asdict(),
            **(measure(design, variant, **how)._asdict() if is_timed else {}),
        }
        for variant in VARIANTS
    ]
    by_variant = {row["variant"]: row for row in rows}
    for name in AT_TEST if is_timed else ():
        by_variant["auxiliary"][name] = by_variant["vanilla"][name]
    return rows


def check_memory(needed: int, device: torch.device) -> None:
    """Check that there is twice as much memory as weights need.

    Args:
        needed: Bytes of the weights.
        device: Where they are wanted.

    Raises:
        ValueError: If there is less.
    """
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * needed > total:
        raise ValueError(
            f"cost: half the memory must hold the weights, {needed / 1e9:.1f} GB, got "
            f"{total / 2e9:.1f} GB. Use a larger machine, or a smaller model."
        )


def fill(model: nn.Module, precision: str, device: torch.device) -> None:
    """Give the model random weights on a device; memory never written would be read too fast."""
    if precision == "bfloat16":
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
    for module in model.modules():  # numbers that are no weights, of a model that was built, stay
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(tensor.is_meta for tensor in own):
            module.to_empty(device=device, recurse=False)
    model.to(device)
    draws = torch.Generator(device).manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, -0.02, 0.02, generator=draws)
    for tensor in model.buffers():
        tensor.abs_()  # a variance is not negative


def step_seconds(
    model: nn.Module,
    batch: Batch,
    losses: Losses,
    *,
    passes: int,
    is_compiled: bool,
    precision: str,
    device: torch.device,
) -> float:
    """Return the median seconds of a training step.

    Args:
        model: On the device.
        batch: Of each pass, there too.
        losses: From outputs and batch to a loss for each item.
        passes: Forward and backward, in front of AdamW's step.
        is_compiled: Whether the model is compiled.
        precision: ``float32`` or ``bfloat16``, as in training.
        device: Where steps are timed.
    """
    run = compiled(model) if is_compiled else model
    with autocast(device, precision):
        seconds, _ = _measured(_training_step(model, batch, losses, run, passes), device)
    return seconds


def _training_step(
    model: nn.Module,
    batch: Batch,
    losses: Losses,
    run: Callable[..., Outputs] | None = None,
    passes: int = 1,
) -> Callable[[], None]:
    """Return a training step of a model, which another function may run, compiled."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)

    def step() -> None:
        model.train()
        for _ in range(passes):
            loss = training_loss((run or model)(batch["inputs"]), batch, losses)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for an accelerator

    return step


def _test_step(model: nn.Module, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode():
            outputs = model.eval()(batch["inputs"])
            first = outputs if isinstance(outputs, Tensor) else next(iter(outputs.values()))
            first.sum().item()  # waits for an accelerator

    return step


def _measured(step: Callable[[], None], device: torch.device) -> tuple[float, int | None]:
    """Return the median seconds of a step and the peak memory of the process in bytes."""
    _reset_peak(device)
    times = []
    for _ in range(1 + PASSES):  # the first is not timed
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), _peak_bytes(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # only Linux has it
            Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes(device: torch.device) -> int | None:
    """Return allocated memory on an accelerator, resident memory on a CPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
