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
from rectify.language.files import read_settings, read_tensors, tensor_names, tensor_shapes
from rectify.language.names import is_head, prefix_of
from rectify.language.quantised import (
    SCALE,
    check_not_packed,
    check_numbers,
    check_readable,
    unpacked,
)
from rectify.runtime import generator
from rectify.tensors import Tensors, check_same_tensors

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
        ValueError: If there is none, its architecture is not one of ``FAMILIES``, or it is
            quantised in a way that is not read.
    """
    settings = read_settings(checkpoint)
    check_readable(settings, checkpoint)
    return parse_config(settings, checkpoint)


def describe(checkpoint: Path | str) -> Description:
    """Return a model's family, sizes and numbers of parameters; no weights are read.

    Raises:
        ValueError: As ``read_config``, or if the weights are missing or damaged.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint)
    family, prefix = FAMILIES[config.model_type], prefix_of(checkpoint, config)
    sizes = {
        name: shape.numel()
        for name, shape in tensor_shapes(checkpoint).items()
        if (name.startswith(prefix) or is_head(name))
        and not name.endswith((*family.buffers, SCALE))
    }
    if config.tie_word_embeddings and f"{prefix}{family.embedding}.weight" in sizes:
        sizes = {name: size for name, size in sizes.items() if not is_head(name)}
    layer = _start(config, prefix, 0)
    return Description(
        family=config.model_type,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        parameters=sum(sizes.values()),
        block_parameters=sum(size for name, size in sizes.items() if name.startswith(layer)),
    )


def layer_tensors(checkpoint: Path, config: PretrainedConfig, layer: int) -> Tensors:
    """Return the tensors of decoder layer ``layer``, counted from 0.

    Raises:
        ValueError: If there is no such layer, or a tensor is missing, unknown or misshaped, or
            holds no numbers of use.
    """
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(
            f"{checkpoint}: layer must lie in 0..{config.num_hidden_layers - 1}, got {layer}. "
            "Change the layer in the config."
        )
    buffers, where = FAMILIES[config.model_type].buffers, f"{checkpoint}: layer {layer}"
    tensors = _under(checkpoint, _start(config, prefix_of(checkpoint, config), layer))
    tensors = {name: t for name, t in tensors.items() if not f".{name}".endswith(buffers)}
    check_not_packed(tensors, where)
    tensors = unpacked(tensors, config, where)
    check_layer(tensors, config, layer, checkpoint)
    check_numbers(tensors, where)
    return tensors


def norm_tensors(checkpoint: Path, config: PretrainedConfig) -> Tensors:
    """Return the tensors of the norm after the last layer; none if the model has none there.

    Raises:
        ValueError: If one is missing, unknown or misshaped.
    """
    if empty_norm(config) is None:  # OPT 350M: what there may be of one is not used
        return {}
    norm = FAMILIES[config.model_type].norm
    tensors = _under(checkpoint, f"{prefix_of(checkpoint, config)}{norm}.")
    check_norm(tensors, config, checkpoint)
    return tensors


def embedding_tensors(checkpoint: Path, config: PretrainedConfig, embedding: nn.Module) -> Tensors:
    """Return the table of token embeddings, under its name in the model.

    Where the model's output is the same matrix, it may be in the checkpoint as that alone.

    Raises:
        ValueError: As `module_tensors`.
    """
    name = FAMILIES[config.model_type].embedding
    part, names = nn.ModuleDict({name: embedding}), tensor_names(checkpoint)
    heads = [other for other in names if is_head(other) and other.endswith(".weight")]
    is_there = f"{prefix_of(checkpoint, config)}{name}.weight" in names
    if is_there or not config.tie_word_embeddings or len(heads) != 1:
        return module_tensors(checkpoint, config, part)
    [matrix] = _under(checkpoint, heads[0].removesuffix("weight")).values()
    return _checked({f"{name}.weight": matrix}, part, checkpoint)


def module_tensors(checkpoint: Path, config: PretrainedConfig, module: nn.Module) -> Tensors:
    """Return the tensors of a part of the model that is named as it is in the model.

    Raises:
        ValueError: If one is missing or misshaped.
    """
    names = "|".join(map(re.escape, module.state_dict()))
    start = re.escape(prefix_of(checkpoint, config))
    tensors = read_tensors(checkpoint, re.compile(rf"^{start}({names})$")) if names else {}
    return _checked(tensors, module, checkpoint)


def _checked(tensors: Tensors, module: nn.Module, where: Path) -> Tensors:
    check_same_tensors(module.state_dict(), tensors, where, ADVICE)
    check_numbers(tensors, where)
    return tensors


def _start(config: PretrainedConfig, prefix: str, layer: int) -> str:
    """Return what the names of a layer's tensors begin with, ``model.decoder.layers.3.``."""
    return f"{prefix}{FAMILIES[config.model_type].stem}.{layer}."


def _under(checkpoint: Path, start: str) -> Tensors:
    """Return the tensors whose names begin so, under the rest of their names."""
    return read_tensors(checkpoint, re.compile(rf"^{re.escape(start)}(.+)$"))


def check_layer(tensors: Tensors, config: PretrainedConfig, layer: int, where: Path) -> None:
    """Check that these are the tensors of a decoder layer, as ``check_same_tensors``."""
    expected = empty_layer(config, layer).state_dict()
    check_same_tensors(expected, tensors, f"{where}: layer {layer}", ADVICE)


def check_norm(tensors: Tensors, config: PretrainedConfig, where: Path) -> None:
    """Check that these are the tensors of the norm after the last layer, if there is one."""
    norm = empty_norm(config)
    expected = {} if norm is None else norm.state_dict()
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
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
