"""Frozen language models: one decoder block, or the features of captions from every block.

A block is the decoder layer of Hugging Face's implementation, run on visual tokens: without
rotary or learned positions, without ALiBi and without a causal mask, so that each token sees
all tokens (Pang et al., 2024). Its weights are those of the checkpoint, bit by bit in their own
precision, and compute in float32. Only the tensors of that layer are read; the model's own
final norm stands beside the block, not in it, for those who ask for it.

Caption features follow Huh et al. (2024): the output of every decoder block, before the final
norm, averaged over the caption's tokens, special ones included.
"""

import hashlib
import json
import re
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from rectify.checkpoints import (
    Tensors,
    damaged,
    mapped_tensors,
    read_settings,
    read_tensors,
    tensor_shapes,
)
from rectify.families import FAMILIES, empty_layer, empty_norm, parse_config
from rectify.records import atomic_path, read_json

PREFIXES = r"^(?:model\.|decoder\.|transformer\.)*"  # before the names in a checkpoint
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
        self.decoder = empty_layer(config, layer)
        weights = {name: tensor.float() for name, tensor in tensors.items()}
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
        return FAMILIES[self.family].call(self.decoder, tokens)

    def train(self, mode: bool = True) -> "Block":
        """Stay in evaluation mode: a frozen block has no other."""
        return super().train(False)


def load_block(checkpoint: Path, layer: int) -> Block:
    """Return decoder block ``layer`` of a checkpoint, frozen.

    Args:
        checkpoint: Folder in Hugging Face format (``config.json`` and one or many
            ``.safetensors`` or ``.bin`` files) or Meta's (``params.json``,
            ``consolidated.00.pth``).
        layer: Index of the decoder block, counted from 0.

    Raises:
        ValueError: If the folder, the layer, the architecture or a tensor is not as it must be.
    """
    config = read_config(checkpoint)
    tensors = _layer_tensors(checkpoint, config, layer)
    norm = partial(_norm_tensors, checkpoint, config)
    return Block(config, checkpoint.name, layer, tensors, norm)


def extract_block(checkpoint: Path, layer: int, output: Path) -> None:
    """Write decoder block ``layer`` of a checkpoint to one ``.safetensors`` file, bit by bit.

    The model's final norm is written beside it, if there is one.

    Raises:
        ValueError: As ``load_block``.
    """
    config = read_config(checkpoint)
    tensors = _layer_tensors(checkpoint, config, layer)
    norm = _norm_tensors(checkpoint, config)
    tensors |= {f"{FINAL_NORM}{name}": tensor for name, tensor in norm.items()}
    facts = {
        "family": config.model_type,
        "language": checkpoint.name,
        "layer": layer,
        "config": read_settings(checkpoint),
        "sha256": _sha256(tensors),
    }
    with atomic_path(output) as temporary:  # one key: safetensors writes several in any order
        save_file(tensors, temporary, {"block": json.dumps(facts, sort_keys=True)})


def read_block(path: Path) -> Block:
    """Return the frozen block that ``extract_block`` wrote.

    Raises:
        ValueError: If the file is not such a file, or its tensors are not those it was made of.
    """
    config, facts, tensors = _read_extracted(path)
    if _sha256(tensors) != facts["sha256"]:
        raise ValueError(
            f"{path}: the tensors must have the digest {facts['sha256'][:12]}, "
            f"got {_sha256(tensors)[:12]}. Extract the block again."
        )
    return _extracted_block(config, facts, tensors)


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
    pattern, ignored = _pattern(config, 0), FAMILIES[config.model_type].buffers
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


def read_config(checkpoint: Path) -> PretrainedConfig:
    """Return a checkpoint's configuration in Hugging Face's terms.

    Raises:
        ValueError: If there is none, or its architecture is not one of ``FAMILIES``.
    """
    return parse_config(read_settings(checkpoint), checkpoint)


def caption_features(
    checkpoint: Path,
    captions: list[str],
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
) -> Float[Tensor, "layers captions dim"]:
    """Return each decoder block's output, averaged over the tokens of each caption.

    Args:
        checkpoint: Folder in Hugging Face format with the model's own tokenizer.
        captions: Texts without a prompt, never cut.
        batch_size: Captions per forward pass; changes the result by rounding only.
        device: Where the model runs, in float32.

    Raises:
        ValueError: If the folder is not complete, or a caption has no or too many tokens.
    """
    config = read_config(checkpoint)
    rows = _token_rows(checkpoint, captions, getattr(config, "max_position_embeddings", None))
    model = _pretrained(checkpoint).to(device).eval().requires_grad_(False)
    parts = []
    for start in range(0, len(rows), batch_size):
        tokens = _padded(rows[start : start + batch_size]).to(device)
        parts.append(_block_means(model, tokens.clamp(min=0), (tokens >= 0).long()).cpu())
    return torch.cat(parts, dim=1)


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if len(shape) > 1:
        return nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator)
    return torch.full(shape, 1.0 if name.endswith("weight") else 0.0)


def _sha256(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read_extracted(path: Path) -> tuple[PretrainedConfig, dict[str, Any], Tensors]:
    tensors = {name: tensor.clone() for name, tensor in mapped_tensors(path).items()}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "block" not in metadata:
        raise ValueError(f"{path}: must be a block from extract-block, got none. Extract it.")
    facts = json.loads(metadata["block"])
    config = parse_config(facts["config"], path)
    layer, norm = _parted(tensors)
    _check(layer, empty_layer(config, facts["layer"]), f"of layer {facts['layer']}", path)
    _check_norm(norm, config, path)
    return config, facts, tensors


def _extracted_block(config: PretrainedConfig, facts: dict[str, Any], tensors: Tensors) -> Block:
    layer, norm = _parted(tensors)
    return Block(config, facts["language"], facts["layer"], layer, partial(dict, norm))


def _parted(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return the tensors of the layer and those of the final norm."""
    norm = {name: tensor for name, tensor in tensors.items() if name.startswith(FINAL_NORM)}
    layer = {name: tensor for name, tensor in tensors.items() if name not in norm}
    return layer, {name.removeprefix(FINAL_NORM): tensor for name, tensor in norm.items()}


def _layer_tensors(checkpoint: Path, config: PretrainedConfig, layer: int) -> Tensors:
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(
            f"{checkpoint}: layer must lie in 0..{config.num_hidden_layers - 1}, got {layer}. "
            "Change the layer in the config."
        )
    buffers = FAMILIES[config.model_type].buffers
    found = read_tensors(checkpoint, _pattern(config, layer))
    tensors = {name: found[name] for name in found if not f".{name}".endswith(buffers)}
    _check(tensors, empty_layer(config, layer), f"of layer {layer}", checkpoint)
    return tensors


def _norm_tensors(checkpoint: Path, config: PretrainedConfig) -> Tensors:
    pattern = re.compile(rf"{PREFIXES}{FAMILIES[config.model_type].norm}\.(.+)$")
    tensors = read_tensors(checkpoint, pattern)
    _check_norm(tensors, config, checkpoint)
    return tensors


def _pattern(config: PretrainedConfig, layer: int) -> re.Pattern[str]:
    """Match a tensor of the layer, e.g. ``model.decoder.layers.3.fc1.bias``; group 1 is its end."""
    return re.compile(rf"{PREFIXES}{FAMILIES[config.model_type].stem}\.{layer}\.(.+)$")


def _check_norm(tensors: Tensors, config: PretrainedConfig, where: Path) -> None:
    if tensors:  # OPT with its norms after the layers has no final one
        _check(tensors, empty_norm(config), "of the final norm", where)


def _check(tensors: Tensors, module: nn.Module, what: str, where: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"{where}: tensor {name} {what} must be {expected.get(name, 'absent')}, "
                f"got {got.get(name, 'none')}. Get the checkpoint again, or correct its config."
            )


def _token_rows(checkpoint: Path, captions: list[str], longest: int | None) -> list[list[int]]:
    read_json(checkpoint / "tokenizer_config.json")  # one line if the folder has no tokenizer
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    rows = tokenizer(captions)["input_ids"]
    for caption, row in zip(captions, rows, strict=True):
        if not 1 <= len(row) <= (longest or len(row)):
            raise ValueError(
                f"{checkpoint}: a caption must have 1..{longest} tokens, got {len(row)} for "
                f"{caption[:40]!r}. Change the caption, or use a model with a longer context."
            )
    return rows


def _padded(rows: list[list[int]]) -> Int[Tensor, "batch tokens"]:
    """Pad with -1 on the right, where causal attention never looks."""
    texts = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=-1)


def _pretrained(checkpoint: Path) -> PreTrainedModel:
    try:
        model, report = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(damaged(checkpoint, error)) from None
    for name in report["missing_keys"]:
        raise ValueError(f"{checkpoint}: tensor {name} must be there, got none. Get it again.")
    return model


def _block_means(
    model: PreTrainedModel, tokens: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "layers batch dim"]:
    means: list[Tensor] = []

    def keep(block: nn.Module, inputs: Any, output: Any) -> None:
        outputs = output[0] if isinstance(output, tuple) else output
        means.append((outputs * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True))

    stem = FAMILIES[model.config.model_type].stem
    blocks = getattr(model, "decoder", model).get_submodule(stem)
    hooks = [block.register_forward_hook(keep) for block in blocks]
    model(input_ids=tokens, attention_mask=mask, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(means)
