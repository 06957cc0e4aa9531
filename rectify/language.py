"""Frozen language models: one decoder block, or the features of captions from every block.

A block is the decoder layer of Hugging Face's implementation, run on visual tokens: without
rotary or learned positions, without ALiBi and without a causal mask, so that each token sees
all tokens (Pang et al., 2024). Its weights are those of the checkpoint, bit by bit in their own
precision, and compute in float32. Only the tensors of that layer are read.

Caption features follow Huh et al. (2024): the output of every decoder block, before the final
norm, averaged over the caption's tokens, special ones included.
"""

import hashlib
import importlib
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedModel

from rectify.records import atomic_path, read_json
from rectify.runtime import seed_for

Call = Callable[[nn.Module, Float[Tensor, "batch tokens hidden"]], Any]
Tensors = dict[str, Tensor]


def _rotary(layer: nn.Module, tokens: Float[Tensor, "batch tokens hidden"]) -> Any:
    cosine, sine = tokens.new_ones(1, 1, 1), tokens.new_zeros(1, 1, 1)  # an angle of 0
    return layer(tokens, attention_mask=None, position_embeddings=(cosine, sine))


def _plain(layer: nn.Module, tokens: Float[Tensor, "batch tokens hidden"]) -> Any:
    return layer(tokens, attention_mask=None)


def _alibi(layer: nn.Module, tokens: Float[Tensor, "batch tokens hidden"]) -> Any:
    slopes = tokens.new_zeros(len(tokens) * layer.num_heads, 1, tokens.shape[1])
    return layer(tokens, alibi=slopes, attention_mask=None)[0]


@dataclass(frozen=True)
class Family:
    """How one architecture names and calls its decoder layers.

    Attributes:
        layer: Class of the decoder layer, in ``transformers.models.<model_type>``.
        call: Runs the layer without positions and without a mask.
        stem: Name of the list of layers in the model and in the checkpoint.
        buffers: Endings of tensors in old checkpoints that are constants, not weights.
    """

    layer: str
    call: Call
    stem: str = "layers"
    buffers: tuple[str, ...] = ()


FAMILIES = {
    "bloom": Family("BloomBlock", _alibi, stem="h"),
    "gpt2": Family("GPT2Block", _plain, stem="h", buffers=(".attn.bias", ".attn.masked_bias")),
    "llama": Family("LlamaDecoderLayer", _rotary, buffers=("rotary_emb.inv_freq",)),
    "mistral": Family("MistralDecoderLayer", _rotary),
    "opt": Family("OPTDecoderLayer", _plain),
    "qwen2": Family("Qwen2DecoderLayer", _rotary),
}


class Block(nn.Module):
    """One frozen decoder block; tokens in, tokens out.

    Attributes:
        hidden: Width of the tokens.
        family: Architecture, a key of ``FAMILIES``.
        language: Name of the language model: that of the checkpoint's folder.
        layer: Index of the decoder block, counted from 0.
    """

    def __init__(self, config: PretrainedConfig, language: str, layer: int, tensors: Tensors):
        super().__init__()
        self.hidden, self.family = config.hidden_size, config.model_type
        self.language, self.layer = language, layer
        self.decoder = _empty_layer(config, layer)
        weights = {name: tensor.float() for name, tensor in tensors.items()}
        self.decoder.load_state_dict(weights, strict=True, assign=True)
        self.requires_grad_(False)
        self.eval()

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
        checkpoint: Folder in Hugging Face format: ``config.json`` and one or many
            ``.safetensors`` or ``.bin`` files.
        layer: Index of the decoder block, counted from 0.

    Raises:
        ValueError: If the folder, the layer, the architecture or a tensor is not as it must be.
    """
    config = _config(checkpoint)
    return Block(config, checkpoint.name, layer, _layer_tensors(checkpoint, config, layer))


def extract_block(checkpoint: Path, layer: int, output: Path) -> None:
    """Write decoder block ``layer`` of a checkpoint to one ``.safetensors`` file, bit by bit.

    Raises:
        ValueError: As ``load_block``.
    """
    config = _config(checkpoint)
    tensors = _layer_tensors(checkpoint, config, layer)
    facts = {
        "family": config.model_type,
        "language": checkpoint.name,
        "layer": layer,
        "config": read_json(checkpoint / "config.json"),
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
    return Block(config, facts["language"], facts["layer"], tensors)


def random_block(path: Path, generator: torch.Generator) -> Block:
    """Return the control: the architecture of an extracted block, frozen, but not pretrained.

    Matrices are drawn from a normal distribution with standard deviation 0.02 (timm's
    truncated normal, as in Pang et al.); norms are one and biases zero.
    """
    config, facts, tensors = _read_extracted(path)
    drawn = {name: _drawn(name, tensors[name].shape, generator) for name in sorted(tensors)}
    return Block(config, facts["language"], facts["layer"], drawn)


def describe(checkpoint: Path) -> dict[str, Any]:
    """Return family, layers, hidden, parameters and block_parameters; no weights are read."""
    config = _config(checkpoint)
    pattern, ignored = _pattern(config, 0), FAMILIES[config.model_type].buffers
    if config.tie_word_embeddings:
        ignored += ("lm_head.weight",)
    sizes = {
        name: tensor.numel()
        for file in _files(checkpoint)
        for name, tensor in _mapped(checkpoint / file).items()
        if not name.endswith(ignored)
    }
    return {
        "family": config.model_type,
        "layers": config.num_hidden_layers,
        "hidden": config.hidden_size,
        "parameters": sum(sizes.values()),
        "block_parameters": sum(size for name, size in sizes.items() if pattern.search(name)),
    }


def caption_features(
    checkpoint: Path,
    captions: list[str],
    batch_size: int,
    *,
    device: torch.device | str = "cpu",
    untrained: int | None = None,
) -> Float[Tensor, "layers captions dim"]:
    """Return each decoder block's output, averaged over the tokens of each caption.

    Args:
        checkpoint: Folder in Hugging Face format with the model's own tokenizer.
        captions: Texts without a prompt, never cut.
        batch_size: Captions per forward pass; changes the result by rounding only.
        device: Where the model runs, in float32.
        untrained: Seed for weights as before pretraining, in place of the checkpoint's.

    Raises:
        ValueError: If the folder is not complete, or a caption has no or too many tokens.
    """
    config = _config(checkpoint)
    rows = _token_rows(checkpoint, captions, getattr(config, "max_position_embeddings", None))
    model = _pretrained(checkpoint) if untrained is None else _untrained(config, untrained)
    model = model.to(device).eval().requires_grad_(False)
    parts = []
    for start in range(0, len(rows), batch_size):
        tokens = _padded(rows[start : start + batch_size]).to(device)
        parts.append(_block_means(model, tokens.clamp(min=0), (tokens >= 0).long()).cpu())
    return torch.cat(parts, dim=1)


def _empty_layer(config: PretrainedConfig, layer: int) -> nn.Module:
    family = FAMILIES[config.model_type]
    name = config.model_type
    config._attn_implementation = "sdpa"  # building a layer alone would choose the slow one
    module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    with torch.device("meta"):
        decoder = getattr(module, family.layer)(config, layer)
    for part in decoder.modules():
        if hasattr(part, "is_causal"):
            part.is_causal = False
    return decoder


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
    tensors = {name: tensor.clone() for name, tensor in _mapped(path).items()}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "block" not in metadata:
        raise ValueError(f"{path}: must be a block from extract-block, got none. Extract it.")
    facts = json.loads(metadata["block"])
    config = _parsed_config(facts["config"], path)
    _check_tensors(tensors, config, facts["layer"], path)
    return config, facts, tensors


def _config(checkpoint: Path) -> PretrainedConfig:
    path = checkpoint / "config.json"
    if not path.is_file():
        raise ValueError(
            f"{checkpoint}: must be a folder in Hugging Face format, got no config.json. "
            "Change the model's path in the config, or pretrain the model first."
        )
    return _parsed_config(read_json(path), path)


def _parsed_config(values: dict[str, Any], where: Path) -> PretrainedConfig:
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ValueError(
            f"{where}: model_type must be one of {', '.join(FAMILIES)}, got {family!r}. "
            "Choose another model, or add the family to rectify.language."
        )
    return AutoConfig.for_model(**values)


def _layer_tensors(checkpoint: Path, config: PretrainedConfig, layer: int) -> Tensors:
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(
            f"{checkpoint}: layer must lie in 0..{config.num_hidden_layers - 1}, got {layer}. "
            "Change the layer in the config."
        )
    pattern, buffers = _pattern(config, layer), FAMILIES[config.model_type].buffers
    tensors: Tensors = {}
    for file, names in _files(checkpoint).items():
        wanted = {name: match[1] for name in names if (match := pattern.search(name))}
        mapped = _mapped(checkpoint / file) if wanted else {}
        for name in sorted(wanted.keys() & mapped.keys()):
            if not name.endswith(buffers):
                tensors[wanted[name]] = mapped[name].clone()
    _check_tensors(tensors, config, layer, checkpoint)
    return tensors


def _check_tensors(tensors: Tensors, config: PretrainedConfig, layer: int, where: Path) -> None:
    expected = {
        name: tuple(tensor.shape)
        for name, tensor in _empty_layer(config, layer).state_dict().items()
    }
    got = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            raise ValueError(
                f"{where}: tensor {name} of layer {layer} must be {expected.get(name, 'absent')}, "
                f"got {got.get(name, 'none')}. Get the checkpoint again, or correct its config."
            )


def _pattern(config: PretrainedConfig, layer: int) -> re.Pattern[str]:
    """Match a tensor of the layer, e.g. ``model.decoder.layers.3.fc1.bias``; group 1 is its end."""
    stem = FAMILIES[config.model_type].stem
    return re.compile(rf"^(?:model\.|decoder\.|transformer\.)*{stem}\.{layer}\.(.+)$")


def _files(checkpoint: Path) -> dict[str, list[str]]:
    """Return the files of a checkpoint with the names of their tensors."""
    for file in ("model.safetensors", "pytorch_model.bin"):
        index = checkpoint / f"{file}.index.json"
        if index.is_file():
            files: dict[str, list[str]] = {}
            for name, part in read_json(index)["weight_map"].items():
                files.setdefault(part, []).append(name)
            return files
        if (checkpoint / file).is_file():
            return {file: list(_mapped(checkpoint / file))}
    raise ValueError(
        f"{checkpoint}: must hold model.safetensors or pytorch_model.bin, or their index, "
        "got none. Get the checkpoint again."
    )


def _mapped(path: Path) -> Tensors:
    """Return a file's tensors mapped into memory: bytes are read when a tensor is used."""
    try:
        if path.suffix == ".bin":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(_unreadable(path, error)) from None


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return f"{path}: must be a whole file of tensors, got {reason}. Get the file again."


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
        raise ValueError(_unreadable(checkpoint, error)) from None
    for name in report["missing_keys"]:
        raise ValueError(f"{checkpoint}: tensor {name} must be there, got none. Get it again.")
    return model


def _untrained(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):  # constructors draw from the global generator
        torch.manual_seed(seed_for(seed, "untrained"))
        return AutoModel.from_config(config, dtype=torch.float32)


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
