"""Quantised checkpoints in Hugging Face's format: read where it is exact, refused by name else.

Read are matrices of 8-bit floating-point numbers with one factor for each block of them
(``weight_scale_inv``, as DeepSeek and Qwen publish), in float32 as the factors say. Everything
else packs numbers in ways of its own; GGUF (see ``gguf_format``) has the same models.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from rectify.results.files import read_json
from rectify.tensors import Tensors

SCALE = "_scale_inv"  # behind the name of the matrix whose factors these are
SETTINGS = ("quantization_config", "quantization")  # in config.json: Hugging Face's, and MLX's
BESIDE = ("quantize_config.json", "quant_config.json")  # of older GPTQ and AWQ
PACKED = (".qweight", ".qzeros", ".scales", ".weight_scale", ".absmax", ".SCB", ".weight_packed")
WHOLE = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ADVICE = "Get the model that was quantised, or a GGUF of it."


def check_readable(settings: Mapping[str, object], checkpoint: Path) -> None:
    """Check that a checkpoint is not quantised, or in a way that is read.

    Args:
        settings: Of its ``config.json``.
        checkpoint: Its file or folder.

    Raises:
        ValueError: If it is quantised in another way.
    """
    text = settings.get("text_config")
    inner = text if isinstance(text, Mapping) else {}
    found = [group[key] for group in (settings, inner) for key in SETTINGS if group.get(key)]
    found += [read_json(checkpoint / name) for name in BESIDE if (checkpoint / name).is_file()]
    for scheme in found:
        if not isinstance(scheme, Mapping) or not _is_blocks_of_float8(scheme):
            raise ValueError(
                f"{checkpoint}: weights must be as they were trained, or 8-bit floats with factors "
                f"of blocks, got {_title(scheme)}. {ADVICE}"
            )


def check_not_packed(names: Iterable[str], where: Path | str) -> None:
    """Check that no tensor's name is one of packed matrices, for checkpoints that say nothing.

    Raises:
        ValueError: If one is.
    """
    packed = sorted(name for name in names if name.endswith(PACKED))
    if packed:
        raise ValueError(
            f"{where}: weights must be as they were trained, got packed ones: {packed[0]}. {ADVICE}"
        )


def unpacked(tensors: Tensors, config: PretrainedConfig, where: str) -> Tensors:
    """Return tensors with each matrix of 8-bit floats as its factors say, in float32.

    Raises:
        ValueError: If factors do not fit their matrix.
    """
    scheme = getattr(config, "quantization_config", None)
    if not scheme:
        return tensors
    rows, columns = scheme["weight_block_size"]
    whole: Tensors = {}
    for name, tensor in tensors.items():
        factors = tensors.get(f"{name}{SCALE}")
        if name.endswith(SCALE):
            continue
        if factors is not None:
            blocks = tuple(map(math.ceil, (tensor.shape[0] / rows, tensor.shape[1] / columns)))
            if factors.shape != blocks:
                raise ValueError(
                    f"{where}: tensor {name}{SCALE} must be {blocks}, got {tuple(factors.shape)}. "
                    "Get the checkpoint again."
                )
            each = factors.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            tensor = tensor.float() * each[: tensor.shape[0], : tensor.shape[1]]
        whole[name] = tensor
    return whole


def check_numbers(tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Check that tensors hold floating-point numbers, and that no matrix is nothing but zeros.

    Raises:
        ValueError: If one does not, by name.
    """
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in WHOLE:
            kind = f"{tensor.dtype}".removeprefix("torch.")
            raise ValueError(
                f"{where}: tensor {name} must be of floating-point numbers of 16 bits or more, got "
                f"{kind}. {ADVICE}"
            )
        if tensor.ndim > 1 and not tensor.any():
            raise ValueError(
                f"{where}: tensor {name} must have an entry other than 0, got none: its file is "
                "damaged. Get the checkpoint again."
            )


def _is_blocks_of_float8(scheme: Mapping[str, object]) -> bool:
    block = scheme.get("weight_block_size")
    is_plain = scheme.get("quant_method") == "fp8" and scheme.get("activation_scheme") == "dynamic"
    return is_plain and isinstance(block, list) and len(block) == 2


def _title(scheme: object) -> str:
    if not isinstance(scheme, Mapping):
        return f"{scheme!r}"
    bits = [f"{scheme[key]} bits" for key in ("bits", "w_bit") if scheme.get(key)]
    flags = [key for key in ("load_in_4bit", "load_in_8bit") if scheme.get(key)]
    return ", ".join([f"{scheme.get('quant_method') or 'a quantisation'}", *bits, *flags])
