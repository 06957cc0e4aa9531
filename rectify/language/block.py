"""One frozen decoder block of a language model.

A block is the decoder layer of Hugging Face's implementation, run on visual tokens: without
rotary or learned positions, without ALiBi and without a causal mask, so that each token sees
all tokens (Pang et al., 2024), or all but padding. Its weights are those of the checkpoint, bit
by bit: matrices are kept in their own precision, and compute in that of the tokens. Only the
tensors of that layer are read; the model's own final norm comes with the block, not in it, for
those who ask for it.
"""

import json
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig

from rectify.language.families import (
    FAMILIES,
    empty_layer,
    empty_norm,
    parse_config,
    without_causal_mask,
)
from rectify.language.files import read_revision, read_settings
from rectify.language.weights import (
    check_layer,
    check_norm,
    layer_tensors,
    norm_tensors,
    read_config,
    sha256,
)
from rectify.results.files import atomic_path
from rectify.tensors import Tensors, copied_tensor, read_safetensors

FINAL_NORM = "final_norm."  # before the names of the model's own norm in an extracted file
AGAIN = "Extract the block again."


class Facts(TypedDict):
    """What an extracted file says about itself; ``config`` holds the model's settings."""

    family: str
    language: str
    layer: int
    config: dict[str, object]
    revision: str | None
    sha256: str


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
        self.decoder = without_causal_mask(empty_layer(config, layer))
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
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        padding: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens after the layer.

        Args:
            tokens: In any order; all see all.
            padding: True where there is no token: no other token sees it, and what comes out
                there means nothing.
        """
        family = FAMILIES[self.family]
        arguments = family.arguments(self.decoder, tokens)
        arguments["attention_mask"] = None if padding is None else _mask(padding, tokens.dtype)
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

    The model's final norm is written next to it, if there is one.

    Raises:
        ValueError: As ``load_block``.
    """
    config = read_config(checkpoint)
    tensors = layer_tensors(checkpoint, config, layer)
    norm = norm_tensors(checkpoint, config)
    tensors |= {f"{FINAL_NORM}{name}": tensor for name, tensor in norm.items()}
    facts = Facts(
        family=config.model_type,
        language=checkpoint.name,
        layer=layer,
        config=read_settings(checkpoint),
        revision=read_revision(checkpoint),
        sha256=sha256(tensors),
    )
    with atomic_path(output) as temporary:  # one key: safetensors writes several in any order
        save_file(tensors, temporary, {"block": json.dumps(facts, sort_keys=True)})


def read_block(path: Path) -> Block:
    """Return the frozen block that ``extract_block`` wrote.

    Raises:
        ValueError: If the file is not such a file, or its tensors are not those it was made of.
    """
    mapped, metadata = read_safetensors(path, AGAIN)
    facts = _facts(metadata, path)
    tensors = {name: copied_tensor(path, name) for name in mapped}
    if sha256(tensors) != facts["sha256"]:
        raise ValueError(
            f"{path}: the tensors must have the digest {facts['sha256'][:12]}, "
            f"got {sha256(tensors)[:12]}. {AGAIN}"
        )
    config = parse_config(facts["config"], path)
    norm = {name: tensor for name, tensor in tensors.items() if name.startswith(FINAL_NORM)}
    layer = {name: tensor for name, tensor in tensors.items() if name not in norm}
    norm = {name.removeprefix(FINAL_NORM): tensor for name, tensor in norm.items()}
    check_layer(layer, config, facts["layer"], path)
    check_norm(norm, config, path)
    return Block(config, facts["language"], facts["layer"], layer, partial(dict, norm))


def outline_block(path: Path) -> Block:
    """Return an extracted block without its weights: its shapes alone, on torch's ``meta`` device.

    The model's own norm is read when it is asked for.

    Raises:
        ValueError: If the file is not one that ``extract_block`` wrote.
    """
    mapped, metadata = read_safetensors(path, AGAIN)
    facts = _facts(metadata, path)
    config = parse_config(facts["config"], path)
    shapes = dict(empty_layer(config, facts["layer"]).state_dict())
    names = [name for name in mapped if name.startswith(FINAL_NORM)]

    def norm() -> Tensors:
        return {name.removeprefix(FINAL_NORM): copied_tensor(path, name) for name in names}

    return Block(config, facts["language"], facts["layer"], shapes, norm)


def block_facts(path: Path) -> dict[str, str | int | None]:
    """Return what ``extract_block`` noted: family, language, layer, revision and digest.

    Raises:
        ValueError: If the file is not such a file.
    """
    facts = _facts(read_safetensors(path, AGAIN)[1], path)
    return {key: facts[key] for key in ("family", "language", "layer", "revision", "sha256")}


def empty_block(config: PretrainedConfig, language: str) -> Block:
    """Return a block with shapes but without weights, on torch's ``meta`` device."""
    return Block(config, language, 0, dict(empty_layer(config, 0).state_dict()))


def redrawn(block: Block, generator: torch.Generator) -> Block:
    """Return a new frozen block of the same shape that was never trained.

    Matrices are drawn from a normal distribution with standard deviation 0.02 (timm's truncated
    normal, as in Pang et al.), in the precision that the block's have; norms, the final one too,
    are one and biases zero.
    """
    return _changed(block, partial(_initial, generator=generator))


def shuffled(block: Block, generator: torch.Generator) -> Block:
    """Return a new frozen block in which the entries of each tensor are permuted.

    Biases, norms and the final norm too; a constant tensor remains as it is.
    """
    return _changed(block, partial(_permuted, generator=generator))


def moment_matched(block: Block, generator: torch.Generator) -> Block:
    """Return a new frozen block whose tensors are normal with the block's mean and deviation.

    Each tensor, biases, norms and the final norm too, is drawn, then scaled and moved, so that
    its mean and its (population) standard deviation are those of the block's tensor but for
    rounding; a constant tensor remains as it is.
    """
    return _changed(block, partial(_matched, generator=generator))


def _changed(block: Block, change: Callable[[str, Tensor], Tensor]) -> Block:
    """Return a new block of changed tensors: the layer's by name, then those of the final norm."""
    states = (block.decoder, block.final_norm or nn.Identity())
    layer, norm = (
        {name: change(name, tensor) for name, tensor in sorted(module.state_dict().items())}
        for module in states
    )
    return Block(block._config, block.language, block.layer, layer, partial(dict, norm))


def _initial(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.ndim < 2:
        return torch.full_like(tensor, 1.0 if name.endswith("weight") else 0.0)
    drawn = nn.init.trunc_normal_(torch.empty(tensor.shape), std=0.02, generator=generator)
    return drawn.to(tensor)


def _permuted(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.flatten()[order].view(tensor.shape)


def _matched(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    if tensor.amin() == tensor.amax():
        return tensor.clone()
    variance, mean = torch.var_mean(tensor.double(), correction=0)
    drawn = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
    drawn_variance, drawn_mean = torch.var_mean(drawn, correction=0)
    scale = (variance.to(drawn) / drawn_variance).sqrt()
    return drawn.sub_(drawn_mean).mul_(scale).add_(mean.to(drawn)).to(tensor)


def _mask(
    padding: Bool[Tensor, "batch tokens"], dtype: torch.dtype
) -> Float[Tensor, "batch 1 1 tokens"]:
    """Return what is added to the attention's scores: 0, and at padding a large negative number.

    BLOOM, and eager attention everywhere, add a mask of booleans as if it were numbers, so this
    is one of floats. Half the least number remains finite when autocast rounds it, so that a
    sample of padding alone gives no nan.
    """
    mask = torch.zeros(padding.shape, dtype=dtype, device=padding.device)
    return mask.masked_fill(padding, torch.finfo(dtype).min / 2)[:, None, None]


def _facts(metadata: dict[str, str], path: Path) -> Facts:
    if "block" not in metadata:
        raise ValueError(f"{path}: must be a block from extract-block, got none. {AGAIN}")
    return json.loads(metadata["block"])
