"""One frozen decoder block of a language model.

A block is the decoder layer of Hugging Face's implementation, run on visual tokens: without
rotary or learned positions, without ALiBi and without a causal mask, so that each token sees
all tokens (Pang et al., 2024). Its weights are those of the checkpoint, bit by bit: matrices
are kept in their own precision, and compute in that of the tokens. Only the tensors of that
layer are read; the model's own final norm stands beside the block, not in it, for those who ask
for it.
"""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig

from rectify.checkpoints import (
    Tensors,
    mapped_tensors,
    read_revision,
    read_settings,
    tensor_shapes,
)
from rectify.families import FAMILIES, empty_layer, empty_norm, parse_config, without_mask
from rectify.records import atomic_path
from rectify.weights import (
    check,
    check_norm,
    layer_pattern,
    layer_tensors,
    norm_tensors,
    read_config,
    sha256,
)

FINAL_NORM = "final_norm."  # before the names of the model's own norm in an extracted file


class Block(nn.Module):
    """One frozen decoder block; tokens in, tokens out.

    Attributes:
        hidden: Width of the tokens.
        family: Architecture, a key of ``FAMILIES``.
        language: Name of the language model: that of the checkpoint's folder.
        layer: Index of the decoder block, counted from 0.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        language: str,
        layer: int,
        tensors: Tensors,
        norm: Callable[[], Tensors] = dict,
    ):
        super().__init__()
        self.hidden, self.family = config.hidden_size, config.model_type
        self.language, self.layer = language, layer
        self.decoder = without_mask(empty_layer(config, layer))
        weights = {name: w if w.ndim > 1 else w.float() for name, w in tensors.items()}
        self.decoder.load_state_dict(weights, strict=True, assign=True)
        self._config, self._norm = config, norm
        self.requires_grad_(False)
        self.eval()

    @cached_property
    def final_norm(self) -> nn.RMSNorm | nn.LayerNorm | None:
        """The language model's own norm after its last layer, frozen; None if it has none.

        It is not a part of this module (a cached property is not registered): only a model that
        uses it counts it, runs it and moves it to its device. Until then it is not read.
        """
        weights = {name: tensor.float() for name, tensor in self._norm().items()}
        if not weights:
            return None
        norm = empty_norm(self._config)
        norm.load_state_dict(weights, strict=True, assign=True)
        return norm.requires_grad_(False)

    def forward(
        self, tokens: Float[Tensor, "batch tokens hidden"]
    ) -> Float[Tensor, "batch tokens hidden"]:
        family = FAMILIES[self.family]
        arguments = family.arguments(self.decoder, tokens)
        cast = self._cast(tokens)
        if cast:
            output = functional_call(self.decoder, cast, (tokens,), arguments)
        else:
            output = self.decoder(tokens, **arguments)
        return output[0] if family.in_tuple else output

    def _cast(self, tokens: Tensor) -> Tensors:
        """Return the weights of another precision than the tokens, in that of the tokens.

        Under autocast there are none: it casts what it needs.
        """
        weights = self.decoder.named_parameters()
        other = {name: weight for name, weight in weights if weight.dtype != tokens.dtype}
        if not other or torch.is_autocast_enabled(tokens.device.type):
            return {}
        return {name: weight.to(tokens.dtype) for name, weight in other.items()}

    def train(self, mode: bool = True) -> "Block":
        """Stay in evaluation mode: a frozen block has no other."""
        return super().train(False)


def load_block(checkpoint: Path, layer: int) -> Block:
    """Return decoder block ``layer`` of a checkpoint, frozen.

    Args:
        checkpoint: Folder in Hugging Face format (``config.json`` and one or many
            ``.safetensors`` or ``.bin`` files) or Meta's (``params.json``, one or many
            ``consolidated.<n>.pth``).
        layer: Index of the decoder block, counted from 0.

    Raises:
        ValueError: If the folder, the layer, the architecture or a tensor is not as it must be.
    """
    config = read_config(checkpoint)
    tensors = layer_tensors(checkpoint, config, layer)
    norm = partial(norm_tensors, checkpoint, config)
    return Block(config, checkpoint.name, layer, tensors, norm)


def extract_block(checkpoint: Path, layer: int, output: Path) -> None:
    """Write decoder block ``layer`` of a checkpoint to one ``.safetensors`` file, bit by bit.

    The model's final norm is written beside it, if there is one.

    Raises:
        ValueError: As ``load_block``.
    """
    config = read_config(checkpoint)
    tensors = layer_tensors(checkpoint, config, layer)
    norm = norm_tensors(checkpoint, config)
    tensors |= {f"{FINAL_NORM}{name}": tensor for name, tensor in norm.items()}
    facts = {
        "family": config.model_type,
        "language": checkpoint.name,
        "layer": layer,
        "config": read_settings(checkpoint),
        "revision": read_revision(checkpoint),
        "sha256": sha256(tensors),
    }
    with atomic_path(output) as temporary:  # one key: safetensors writes several in any order
        save_file(tensors, temporary, {"block": json.dumps(facts, sort_keys=True)})


def read_block(path: Path) -> Block:
    """Return the frozen block that ``extract_block`` wrote.

    Raises:
        ValueError: If the file is not such a file, or its tensors are not those it was made of.
    """
    config, facts, tensors = _read_extracted(path)
    if sha256(tensors) != facts["sha256"]:
        raise ValueError(
            f"{path}: the tensors must have the digest {facts['sha256'][:12]}, "
            f"got {sha256(tensors)[:12]}. Extract the block again."
        )
    return _extracted_block(config, facts, tensors)


def block_facts(path: Path) -> dict[str, Any]:
    """Return what ``extract_block`` noted: family, language, layer, revision and digest.

    Raises:
        ValueError: If the file is not such a file.
    """
    facts = _facts(path)
    return {key: facts[key] for key in ("family", "language", "layer", "revision", "sha256")}


def random_block(path: Path, generator: torch.Generator) -> Block:
    """Return the control: the architecture of an extracted block, frozen, but not pretrained.

    Matrices are drawn from a normal distribution with standard deviation 0.02 (timm's
    truncated normal, as in Pang et al.); norms are one and biases zero.
    """
    config, facts, tensors = _read_extracted(path)
    drawn = {name: _drawn(name, tensors[name].shape, generator) for name in sorted(tensors)}
    return _extracted_block(config, facts, drawn)


def empty_block(config: PretrainedConfig, language: str) -> Block:
    """Return a block with shapes but without weights, on torch's ``meta`` device."""
    return Block(config, language, 0, dict(empty_layer(config, 0).state_dict()))


def describe(checkpoint: Path) -> dict[str, Any]:
    """Return family, layers, hidden, parameters and block_parameters; no weights are read."""
    config = read_config(checkpoint)
    pattern, ignored = layer_pattern(config, 0), FAMILIES[config.model_type].buffers
    if config.tie_word_embeddings:
        ignored += ("lm_head.weight",)
    sizes = {
        name: shape.numel()
        for name, shape in tensor_shapes(checkpoint).items()
        if not name.endswith(ignored)
    }
    return {
        "family": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "parameters": sum(sizes.values()),
        "block_parameters": sum(size for name, size in sizes.items() if pattern.search(name)),
    }


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        return nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)
    return torch.full(shape, 1.0 if name.endswith("weight") else 0.0)


def _read_extracted(path: Path) -> tuple[PretrainedConfig, dict[str, Any], Tensors]:
    tensors = {name: mapped_tensors(path)[name].clone() for name in mapped_tensors(path)}
    facts = _facts(path)
    config = parse_config(facts["config"], path)
    layer, norm = _parted(tensors)
    check(layer, empty_layer(config, facts["layer"]), f"of layer {facts['layer']}", path)
    check_norm(norm, config, path)
    return config, facts, tensors


def _facts(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "block" not in metadata:
        raise ValueError(f"{path}: must be a block from extract-block, got none. Extract it.")
    return json.loads(metadata["block"])


def _extracted_block(config: PretrainedConfig, facts: dict[str, Any], tensors: Tensors) -> Block:
    layer, norm = _parted(tensors)
    return Block(config, facts["language"], facts["layer"], layer, partial(dict, norm))


def _parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return the tensors of the layer and those of the final norm."""
    norm = {name: tensor for name, tensor in tensors.items() if name.startswith(FINAL_NORM)}
    layer = {name: tensor for name, tensor in tensors.items() if name not in norm}
    return layer, {name.removeprefix(FINAL_NORM): tensor for name, tensor in norm.items()}
