"""The parts of a language model's checkpoint, each complete and of the right shapes.

A decoder layer, the norm after the last one, the table of token embeddings, and what is between
that table and the first layer. Each is read alone, under the names of transformers' modules,
bit by bit in its own precision.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from rectify.language.families import FAMILIES, empty_layer, empty_norm, parse_config
from rectify.language.files import read_settings, read_tensors, tensor_shapes
from rectify.runtime import generator
from rectify.tensors import Tensors, check_same_tensors

PREFIXES = r"^(?:model\.|decoder\.|transformer\.)*"  # before the names in a checkpoint
ADVICE = "Get the checkpoint again, or correct its config."


class Description(NamedTuple):
    """What a language model is, as its settings and the shapes of its tensors say."""

    family: str
    layers: int
    hidden: int
    parameters: int
    block_parameters: int


def read_config(checkpoint: Path) -> PretrainedConfig:
    """Return a checkpoint's configuration in Hugging Face's terms.

    Raises:
        ValueError: If there is none, or its architecture is not one of ``FAMILIES``.
    """
    return parse_config(read_settings(checkpoint), checkpoint)


def describe(checkpoint: Path) -> Description:
    """Return a model's family, sizes and numbers of parameters; no weights are read.

    Raises:
        ValueError: As ``read_config``, or if the weights are missing or damaged.
    """
    config = read_config(checkpoint)
    pattern, ignored = layer_pattern(config, 0), FAMILIES[config.model_type].buffers
    if config.tie_word_embeddings:
        ignored += ("lm_head.weight",)
    sizes = {
        name: shape.numel()
        for name, shape in tensor_shapes(checkpoint).items()
        if not name.endswith(ignored)
    }
    return Description(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        parameters=sum(sizes.values()),
        block_parameters=sum(size for name, size in sizes.items() if pattern.search(name)),
    )


def layer_tensors(checkpoint: Path, config: PretrainedConfig, layer: int) -> Tensors:
    """Return the tensors of decoder layer ``layer``, counted from 0.

    Raises:
        ValueError: If there is no such layer, or a tensor is missing, unknown or misshaped.
    """
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(
            f"{checkpoint}: layer must lie in 0..{config.num_hidden_layers - 1}, got {layer}. "
            "Change the layer in the config."
        )
    buffers = FAMILIES[config.model_type].buffers
    tensors = read_tensors(checkpoint, layer_pattern(config, layer))
    tensors = {name: t for name, t in tensors.items() if not f".{name}".endswith(buffers)}
    check_layer(tensors, config, layer, checkpoint)
    return tensors


def norm_tensors(checkpoint: Path, config: PretrainedConfig) -> Tensors:
    """Return the tensors of the norm after the last layer; none if the model has none.

    Raises:
        ValueError: If one is missing, unknown or misshaped.
    """
    pattern = re.compile(rf"{PREFIXES}{FAMILIES[config.model_type].norm}\.(.+)$")
    tensors = read_tensors(checkpoint, pattern)
    check_norm(tensors, config, checkpoint)
    return tensors


def module_tensors(checkpoint: Path, module: nn.Module) -> Tensors:
    """Return the tensors of a part of the model that is named as it is in the model.

    Raises:
        ValueError: If one is missing or misshaped.
    """
    names = "|".join(map(re.escape, module.state_dict()))
    tensors = read_tensors(checkpoint, re.compile(rf"{PREFIXES}({names})$")) if names else {}
    check_same_tensors(module.state_dict(), tensors, checkpoint, ADVICE)
    return tensors


def layer_pattern(config: PretrainedConfig, layer: int) -> re.Pattern[str]:
    """Match a tensor of the layer, e.g. ``model.decoder.layers.3.fc1.bias``; group 1 is its end."""
    return re.compile(rf"{PREFIXES}{FAMILIES[config.model_type].stem}\.{layer}\.(.+)$")


def check_layer(tensors: Tensors, config: PretrainedConfig, layer: int, where: Path) -> None:
    """Check that these are the tensors of a decoder layer, as ``check_same_tensors``."""
    expected = empty_layer(config, layer).state_dict()
    check_same_tensors(expected, tensors, f"{where}: layer {layer}", ADVICE)


def check_norm(tensors: Tensors, config: PretrainedConfig, where: Path) -> None:
    """Check that these are the tensors of the norm after the last layer, where there is one."""
    if tensors:  # OPT with its norms after the layers has no final one
        expected = empty_norm(config).state_dict()
        check_same_tensors(expected, tensors, f"{where}: final norm", ADVICE)


def initial(name: str, tensor: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    """Return a tensor that was never trained; ``unit`` is the weight of a norm of gain one."""
    if tensor.ndim < 2:
        return torch.full_like(tensor, unit if name.endswith("weight") else 0.0)
    drawn = nn.init.trunc_normal_(torch.empty(tensor.shape), std=0.02, generator=generator)
    return drawn.to(tensor)


def drawn(tensors: Tensors, config: PretrainedConfig, seed: int, part: str) -> Tensors:
    """Return tensors of the same names and shapes that were never trained: see ``initial``.

    Args:
        tensors: Of one part of a model.
        config: Of the model.
        seed: Decides every draw.
        part: Name of the part; each tensor has random numbers of its own.
    """
    unit = FAMILIES[config.model_type].unit
    return {
        name: initial(name, tensor, unit, generator(seed, "untrained", part, name))
        for name, tensor in tensors.items()
    }


def sha256(tensors: Tensors) -> str:
    """Return the digest of tensors: of their names and their bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
