"""What a ViT and a ViT with a frozen block cost: parameters, FLOPs of one image or clip, seconds.

Counting needs no weights: models stand on torch's ``meta`` device, shapes without numbers.
FLOPs are counted by three conventions, a multiply-add being 2:

    paper                      linears and convolutions, 5 per element of a LayerNorm, and the
                               attention products of the language block, but not of the ViT
    matmuls without attention  linears and convolutions
    matmuls with attention     all matrix products, as torch's FlopCounterMode counts

The first gives the 8.5 and 90.11 GFLOPs that the paper prints. It is twice what fvcore calls
flops: multiply-adds, where fused attention is unknown and counts 0, LayerNorm counts 5 per
element, and RMSNorm, activations and softmax count 0.
"""

import difflib
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from rectify.families import parse_config
from rectify.language import empty_block
from rectify.rectified import InsertedViT, insert
from rectify.runtime import generator
from rectify.videomae import create_videomae
from rectify.vision import create_vit
from rectify.weights import read_config

LINEAR = {"mm", "addmm", "convolution"}  # torch's names of the products outside attention
LAYER_NORM = 5 * 2  # per element; fvcore's 5 "multiply-adds", doubled like the others
CONVENTIONS = ("matmuls_without_attention", "matmuls_with_attention")
PASSES = 5  # timed, after one that is not


def _llama(width: int, mlp: int, heads: int, layers: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        **other,
    }


def _opt(width: int, heads: int, layers: int, **other: Any) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "hidden_size": width,
        "ffn_dim": 4 * width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        **other,
    }


def _bloom(width: int, heads: int, layers: int) -> dict[str, Any]:
    return {"model_type": "bloom", "hidden_size": width, "n_head": heads, "n_layer": layers}


LANGUAGES = {
    "llama-7b": _llama(4096, 11008, 32, 32),
    "llama-13b": _llama(5120, 13824, 40, 40),
    "llama2-7b": _llama(4096, 11008, 32, 32, rms_norm_eps=1e-5),
    "llama2-13b": _llama(5120, 13824, 40, 40, rms_norm_eps=1e-5),
    "llama3-8b": _llama(4096, 14336, 32, 32, num_key_value_heads=8, rms_norm_eps=1e-5),
    "opt-125m": _opt(768, 12, 12),
    "opt-350m": _opt(1024, 16, 24, do_layer_norm_before=False, word_embed_proj_dim=512),
    "opt-1.3b": _opt(2048, 32, 24),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "bloomz-560m": _bloom(1024, 16, 24),
    "bloomz-1.1b": _bloom(1536, 16, 24),
    "bloomz-3b": _bloom(2560, 32, 30),
    "bloomz-7.1b": _bloom(4096, 32, 30),
}


def cost(
    vision: str,
    language: str,
    position: str | int,
    *,
    image_size: int,
    classes: int,
    batch_size: int,
    frames: int = 1,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Return parameters, FLOPs and seconds of one image, for the plain and the rectified ViT.

    Args:
        vision: A timm model name, e.g. ``vit_small_patch16_224``.
        language: A key of ``LANGUAGES``, or the folder of a checkpoint.
        position: Of the block: ``early``, ``middle``, ``end`` or a number of ViT blocks.
        image_size: Height and width in pixels.
        classes: Outputs of the head.
        batch_size: Images per forward pass that is timed; FLOPs are always those of one image.
        frames: More than 1 makes the ViT VideoMAE's, and an image a clip.
        device: Where forward passes with random weights are timed, in float32; not if None.

    Raises:
        ValueError: If a name, position or size is not as it must be, or memory is too small.
    """
    _check_sizes(image_size=image_size, classes=classes, batch_size=batch_size, frames=frames)
    model = _shapes(vision, language, position, image_size, classes, frames)
    both = {"vision": model.vit, "rectified": model}
    counts = {name: flops(part, image_size, frames=frames) for name, part in both.items()}
    conventions = {kind: {name: counts[name][kind] for name in both} for kind in CONVENTIONS}
    return {
        "parameters": {name: parameters(part) for name, part in both.items()},
        "flops": {name: counts[name]["paper"] for name in both} | {"conventions": conventions},
        "seconds_per_image": _seconds(model, image_size, batch_size, frames, device)
        if device
        else None,
    }


def language_config(language: str) -> PretrainedConfig:
    """Return the configuration of a known language model, or of a checkpoint's folder.

    Raises:
        ValueError: If it is neither.
    """
    if language in LANGUAGES:
        return parse_config(LANGUAGES[language], "cost")
    if Path(language).is_dir():
        return read_config(Path(language))
    near = difflib.get_close_matches(language, LANGUAGES, 3) or list(LANGUAGES)
    raise ValueError(
        "cost: language must be a known model or the folder of a checkpoint, "
        f"got {language!r}. Near names: {', '.join(near)}."
    )


def parameters(model: nn.Module) -> int:
    """Return how many parameters a model has, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, image_size: int, channels: int = 3, frames: int = 1) -> dict[str, int]:
    """Return the FLOPs of one image or clip by each convention.

    Args:
        model: A plain ViT or an ``InsertedViT``, on torch's ``meta`` device.
        image_size: Height and width in pixels.
        channels: Channels of an image.
        frames: Of a clip; 1 for an image.
    """
    norms: list[int] = []
    hooks = [
        part.register_forward_hook(lambda part, inputs, output: norms.append(output.numel()))
        for part in model.modules()
        if isinstance(part, nn.LayerNorm)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(_shape(1, image_size, channels, frames), device="meta"))
    for hook in hooks:
        hook.remove()
    whole = _products(counter, "Global")
    bridge = _products(counter, f"{type(model).__name__}.bridge")
    linear = sum(count for name, count in whole.items() if name in LINEAR)
    attention = sum(count for name, count in bridge.items() if name not in LINEAR)
    return {
        "paper": linear + attention + LAYER_NORM * sum(norms),
        "matmuls_without_attention": linear,
        "matmuls_with_attention": sum(whole.values()),
    }


def _shape(batch_size: int, image_size: int, channels: int, frames: int) -> tuple[int, ...]:
    """Return the shape of a batch of images, or of clips."""
    image = (channels, image_size, image_size)
    return (batch_size, *image) if frames == 1 else (batch_size, frames, *image)


def _products(counter: FlopCounterMode, module: str) -> dict[str, int]:
    counts = counter.get_flop_counts().get(module, {})
    return {operator.__name__.partition(".")[0]: count for operator, count in counts.items()}


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"cost: {name} must be at least 1, got {size}. Correct --{name.replace('_', '-')}."
            )


def _shapes(
    vision: str, language: str, position: str | int, image_size: int, classes: int, frames: int
) -> InsertedViT:
    """Return the rectified ViT without weights; its ``vit`` is the plain one."""
    block = empty_block(language_config(language), language)
    create = create_vit if frames == 1 else create_videomae
    with torch.device("meta"):
        vit = create(vision, num_classes=classes, image_size=image_size, frames=frames)
        return insert(vit, block, position, generator=generator(0, "cost"))


def _seconds(
    model: InsertedViT, image_size: int, batch_size: int, frames: int, device: torch.device
) -> dict[str, float]:
    check_memory(4 * parameters(model), device)
    draws = torch.Generator(device).manual_seed(0)
    model = model.to_empty(device=device)
    for parameter in model.parameters():  # memory that was never written would be read too fast
        nn.init.uniform_(parameter, -0.02, 0.02, generator=draws)
    shape = _shape(batch_size, image_size, 3, frames)
    images = torch.rand(shape, device=device, generator=draws)
    return {
        "vision": _median_seconds(model.vit, images) / batch_size,
        "rectified": _median_seconds(model, images) / batch_size,
    }


def check_memory(needed: int, device: torch.device) -> None:
    """Refuse to fill ``needed`` bytes with weights where there is not twice as much memory.

    Raises:
        ValueError: If there is not.
    """
    if device.type == "cuda":
        whole = torch.cuda.mem_get_info(device)[1]
    else:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 2 * needed > whole:
        raise ValueError(
            f"cost: half the memory must hold the weights, {needed / 1e9:.1f} GB, got "
            f"{whole / 2e9:.1f} GB. Give --no-measure, or use a larger machine."
        )


def _median_seconds(model: nn.Module, images: Tensor) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(1 + PASSES):
            start = time.perf_counter()
            model(images).sum().item()  # waits for an accelerator
            times.append(time.perf_counter() - start)
    return statistics.median(times[1:])
