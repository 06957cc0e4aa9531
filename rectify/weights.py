"""The parts of a language model's checkpoint, each complete and of the right shapes.

A decoder layer, the norm after the last one, the table of token embeddings, and what stands
between that table and the first layer. Each is read alone, under the names of transformers'
modules, bit by bit in its own precision.
"""

import hashlib
import re
from pathlib import Path

import torch
from torch import nn
from transformers import PretrainedConfig

from rectify.checkpoints import Tensors, read_settings, read_tensors
from rectify.families import FAMILIES, empty_layer, empty_norm, parse_config

PREFIXES = r"^(?:model\.|decoder\.|transformer\.)*"  # before the names in a checkpoint


def read_config(checkpoint: Path) -> PretrainedConfig:
    """Return a checkpoint's configuration in Hugging Face's terms.

    Raises:
        ValueError: If there is none, or its architecture is not one of ``FAMILIES``.
    """
    return parse_config(read_settings(checkpoint), checkpoint)


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
    found = read_tensors(checkpoint, layer_pattern(config, layer))
    tensors = {name: found[name] for name in found if not f".{name}".endswith(buffers)}
    check(tensors, empty_layer(config, layer), f"of layer {layer}", checkpoint)
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


def module_tensors(checkpoint: Path, module: nn.Module, what: str) -> Tensors:
    """Return the tensors of a part of the model that is named as it is in the model.

    Raises:
        ValueError: If one is missing or misshaped.
    """
    names = "|".join(map(re.escape, module.state_dict()))
    tensors = read_tensors(checkpoint, re.compile(rf"{PREFIXES}({names})$")) if names else {}
    check(tensors, module, what, checkpoint)
    return tensors


def layer_pattern(config: PretrainedConfig, layer: int) -> re.Pattern[str]:
    """Match a tensor of the layer, e.g. ``model.decoder.layers.3.fc1.bias``; group 1 is its end."""
    return re.compile(rf"{PREFIXES}{FAMILIES[config.model_type].stem}\.{layer}\.(.+)$")


def check_norm(tensors: Tensors, config: PretrainedConfig, where: Path) -> None:
    """Check the tensors of the norm after the last layer, as ``check`` does."""
    if tensors:  # OPT with its norms after the layers has no final one
        check(tensors, empty_norm(config), "of the final norm", where)


def check(tensors: Tensors, module: nn.Module, what: str, where: Path) -> None:
    """Check that ``tensors`` are those that ``module`` has, by name and shape.

    Raises:
        ValueError: Names the first that is missing, unknown or misshaped.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"{where}: tensor {name} {what} must be {expected.get(name, 'absent')}, "
                f"got {got.get(name, 'none')}. Get the checkpoint again, or correct its config."
            )


def sha256(tensors: Tensors) -> str:
    """Return the digest of tensors: of their names and their bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
