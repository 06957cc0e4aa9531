"""What a ViT costs in each variant: counts of one image, speed and peak memory of a batch.

A training step is forward, loss (Eq. 10 with half the weight on each path), backward and an
AdamW step; at test the auxiliary variant is the plain ViT. Weights and images are random, and
matrices of the frozen block have 2 bytes per value under bfloat16, as in published checkpoints.
"""

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from rectify.cost import PASSES, check_memory, flops, language_config, parameters
from rectify.language import empty_block
from rectify.rectified import auxiliary, insert
from rectify.runtime import autocast, generator
from rectify.vision import create_vit

VARIANTS = ("vanilla", "insert", "auxiliary")


def measure(
    variant: str,
    vision: dict[str, Any],
    language: str,
    *,
    image_size: int,
    channels: int,
    classes: int,
    final_norm: str,
    batch_size: int,
    precision: str,
    device: torch.device,
) -> dict[str, Any]:
    """Return the numbers of one row of a ``COST`` table.

    Args:
        variant: ``vanilla``, ``insert`` or ``auxiliary``, each at position ``end``.
        vision: ``timm``, the model's name there, and ``overrides``.
        language: A known language model, or the folder of a checkpoint.
        image_size: Height and width in pixels.
        channels: Channels of an image.
        classes: Outputs of the head.
        final_norm: Norm after the block: ``unit`` or ``none``.
        batch_size: Images of a step.
        precision: ``float32`` or ``bfloat16``, as in training.
        device: Where steps are timed.

    Raises:
        ValueError: If a name or size is not as it must be, or memory is too small.
    """
    model = _shapes(variant, vision, language, image_size, channels, classes, final_norm)
    tested = model.vit if variant == "auxiliary" else model
    shape = (channels, image_size, image_size)
    counts = flops(tested, image_size, channels)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    numbers = {
        "variant": variant,
        "parameters": parameters(model),
        "trained_parameters": trained,
        "test_parameters": parameters(tested),
        "flops": counts["paper"],
        "flops_matmuls_without_attention": counts["matmuls_without_attention"],
        "flops_matmuls_with_attention": counts["matmuls_with_attention"],
        "training_flops": _training_flops(model, shape),
    }
    check_memory(4 * parameters(model), device)
    _fill(model, precision, device)
    images = torch.rand(batch_size, *shape, device=device)
    with autocast(device, precision):
        training = _measured(_training_step(model, images, classes), device)
        test = _measured(_test_step(tested, images), device)
    for name, (seconds, peak) in (("training", training), ("test", test)):
        numbers[f"{name}_images_per_second"] = batch_size / seconds
        numbers[f"{name}_peak_bytes"] = peak
    return numbers


def _shapes(
    variant: str,
    vision: dict[str, Any],
    language: str,
    image_size: int,
    channels: int,
    classes: int,
    final_norm: str,
) -> nn.Module:
    """Return the model of a variant without weights."""
    overrides = vision.get("overrides", {})
    sizes = {"num_classes": classes, "image_size": image_size, "channels": channels}
    with torch.device("meta"):
        vit = create_vit(vision["timm"], overrides=overrides, **sizes)
    if variant == "vanilla":
        return vit
    block, draws = empty_block(language_config(language), language), generator(0, "cost")
    with torch.device("meta"):
        if variant == "insert":
            return insert(vit, block, "end", generator=draws, final_norm=final_norm)
        return auxiliary(vit, block, generator=draws, final_norm=final_norm)


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    answer = model(images)
    if isinstance(answer, Tensor):
        return cross_entropy(answer, labels)
    return sum(0.5 * cross_entropy(logits, labels) for logits in answer)


def _training_flops(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return all matrix products of the forward and backward pass of one image."""
    images = torch.empty(1, *shape, device="meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        _loss(model.train(), images, labels).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def _fill(model: nn.Module, precision: str, device: torch.device) -> None:
    """Give the model random weights on a device; memory never written would be read too fast."""
    if precision == "bfloat16":
        for parameter in model.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.bfloat16()
    model.to_empty(device=device)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.02, 0.02)


def _training_step(model: nn.Module, images: Tensor, classes: int) -> Callable[[], None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    labels = torch.arange(len(images), device=images.device) % classes

    def step() -> None:
        loss = _loss(model.train(), images, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for an accelerator

    return step


def _test_step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    def step() -> None:
        with torch.inference_mode():
            model.eval()(images).sum().item()

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
