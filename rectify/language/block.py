"""One frozen decoder block of a language model, or some in a row.

A block is the decoder layer of Hugging Face's implementation, run on visual tokens: without
rotary or learned positions, without ALiBi and without a causal mask, so that each token sees
all tokens (Pang et al., 2024), or all but padding. Its weights are those of the checkpoint, bit
by bit: matrices are kept in their own precision, and compute in that of the tokens. Only the
tensors of that layer are read; the model's own final norm comes with the block, not in it, for
those who ask for it.
"""

import json
from collections.abc import Callable, Sequence
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
from rectify.language.files import name_of, read_revision, read_settings
from rectify.language.weights import (
    check_layer,
    check_norm,
    drawn,
    layer_tensors,
    norm_tensors,
    read_config,
    sha256,
)
from rectify.results.files import atomic_path
from rectify.tensors import Tensors, copied_tensor, read_safetensors
from rectify.typed import layer_by, layers_of

FINAL_NORM = "final_norm."  # before the names of the model's own norm in an extracted file
AGAIN = "Extract the block again."


class Facts(TypedDict):
    """What an extracted file says about itself; ``config`` holds the model's settings."""

    family: str
    language: str
    layer: int | str
    config: dict[str, object]
    revision: str | None
    sha256: str


class Block(nn.Module):
    """One frozen decoder block; tokens in, tokens out.

    Attributes:
        hidden: Width of the tokens.
        family: Architecture, a key of ``FAMILIES``.
        language: Name of the language model: that of the checkpoint, or as runs call it.
        layer: Index of the decoder block, counted from 0.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        language: str,
        layer: int,
        tensors: Tensors,
        norm: Callable[[], Tensors] | None = None,
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
    def final_norm(self) -> nn.Module | None:
        """The language model's own norm after its last layer, frozen; None if it has none.

        It is not a part of this module (a cached property is not registered): only a model that
        uses it counts it, runs it and moves it to its device. Until then it is not read.
        """
        norm = empty_norm(self._config) if self._norm else None
        if norm is None:
            return None
        weights = {name: tensor.float() for name, tensor in self._norm().items()}
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
        arguments = {"attention_mask": None, **family.arguments(self.decoder, tokens)}
        if padding is not None:
            arguments["attention_mask"] = padding_mask(padding, tokens.dtype)
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


class Stack(nn.Module):
    """Blocks of one language model in a row, as one; attributes are those of `Block`.

    The final norm is that of the last block, ``layer`` for example ``"30-31"``.
    """

    def __init__(self, blocks: Sequence[Block]):
        super().__init__()
        first, last = blocks[0], blocks[-1]
        self.hidden, self.family, self.language = first.hidden, first.family, first.language
        self.layer = f"{first.layer}-{last.layer}"
        self.blocks = nn.ModuleList(blocks)

    @property
    def final_norm(self) -> nn.Module | None:
        """The language model's own norm after its last layer, as `Block` has it."""
        return self.blocks[-1].final_norm

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        padding: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens after all blocks; arguments as in `Block`."""
        for block in self.blocks:
            tokens = block(tokens, padding)
        return tokens


def load_block(checkpoint: Path | str, layer: int | str) -> Block | Stack:
    """Return decoder block ``layer`` of a checkpoint, frozen.

    Args:
        checkpoint: Folder in Hugging Face format (``config.json`` and one or many
            ``.safetensors`` or ``.bin`` files) or Meta's (``params.json``, one or many
            ``consolidated.<n>.pth``), or a ``.gguf`` file, quantised or not.
        layer: Index of the decoder block, counted from 0; ``"30-31"`` for some in a row.

    Raises:
        ValueError: If the folder, the layer, the architecture or a tensor is not as it must be.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint)
    layers = {one: layer_tensors(checkpoint, config, one) for one in layers_of(_asked(layer))}
    return _in_a_row(config, name_of(checkpoint), layers, partial(norm_tensors, checkpoint, config))


def _asked(layer: int | str) -> int | str:
    return layer_by(layer) if isinstance(layer, str) else layer


def extract_block(
    checkpoint: Path | str,
    layer: int | str,
    output: Path | str,
    untrained: int | None = None,
    name: str | None = None,
) -> None:
    """Write decoder block ``layer`` of a checkpoint to one ``.safetensors`` file, bit by bit.

    The model's final norm is written next to it, if there is one. Of some layers in a row, names
    begin with the layer's index.

    Args:
        checkpoint: As for ``load_block``.
        layer: Likewise.
        output: The file.
        untrained: Seed of weights that are drawn in place of the trained ones, if not None.
        name: Of the language model, as runs call it; that of the checkpoint if None.

    Raises:
        ValueError: As ``load_block``.
    """
    checkpoint, layer = Path(checkpoint), _asked(layer)
    config = read_config(checkpoint)
    tensors: Tensors = {}
    for one, prefix in _prefixes(layer).items():
        weights = layer_tensors(checkpoint, config, one)
        if untrained is not None:
            weights = drawn(weights, config, untrained, f"layer {one}")
        tensors |= {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    norm = norm_tensors(checkpoint, config)
    if untrained is not None:
        norm = drawn(norm, config, untrained, "norm")
    tensors |= {f"{FINAL_NORM}{name}": tensor for name, tensor in norm.items()}
    facts = Facts(
        family=config.model_type,
        language=name_of(checkpoint) if name is None else name,
        layer=layer,
        config=read_settings(checkpoint),
        revision=read_revision(checkpoint),
        sha256=sha256(tensors),
    )
    with atomic_path(Path(output)) as temporary:  # one key: safetensors writes several in any order
        save_file(tensors, temporary, {"block": json.dumps(facts, sort_keys=True)})


def read_block(path: Path | str) -> Block | Stack:
    """Return the frozen block that ``extract_block`` wrote.

    Raises:
        ValueError: If the file is not such a file, or its tensors are not those it was made of.
    """
    path = Path(path)
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
    rest = {name: tensor for name, tensor in tensors.items() if name not in norm}
    norm = {name.removeprefix(FINAL_NORM): tensor for name, tensor in norm.items()}
    layers = {
        one: {n.removeprefix(prefix): w for n, w in rest.items() if n.startswith(prefix)}
        for one, prefix in _prefixes(facts["layer"]).items()
    }
    for one, weights in layers.items():
        check_layer(weights, config, one, path)
    check_norm(norm, config, path)
    return _in_a_row(config, facts["language"], layers, partial(dict, norm))


def outline_block(path: Path | str) -> Block | Stack:
    """Return an extracted block without its weights: its shapes alone, on torch's ``meta`` device.

    The model's own norm is read when it is asked for.

    Raises:
        ValueError: If the file is not one that ``extract_block`` wrote.
    """
    path = Path(path)
    mapped, metadata = read_safetensors(path, AGAIN)
    facts = _facts(metadata, path)
    config = parse_config(facts["config"], path)
    layers = layers_of(facts["layer"])
    shapes = {one: dict(empty_layer(config, one).state_dict()) for one in layers}
    names = [name for name in mapped if name.startswith(FINAL_NORM)]

    def norm() -> Tensors:
        return {name.removeprefix(FINAL_NORM): copied_tensor(path, name) for name in names}

    return _in_a_row(config, facts["language"], shapes, norm)


def _in_a_row(
    config: PretrainedConfig, language: str, layers: dict[int, Tensors], norm: Callable[[], Tensors]
) -> Block | Stack:
    """Return one block, or some in a row, of which the last has the norm."""
    *before, last = (
        Block(config, language, layer, tensors, norm if layer == max(layers) else None)
        for layer, tensors in layers.items()
    )
    return Stack([*before, last]) if before else last


def _prefixes(layer: int | str) -> dict[int, str]:
    """Return what the names of each layer begin with in an extracted file: nothing of a single."""
    layers = layers_of(layer)
    return {one: f"{one}." if len(layers) > 1 else "" for one in layers}


def block_facts(path: Path | str) -> dict[str, str | int | None]:
    """Return what ``extract_block`` noted: family, language, layer, revision and digest.

    Raises:
        ValueError: If the file is not such a file.
    """
    path = Path(path)
    facts = _facts(read_safetensors(path, AGAIN)[1], path)
    return {key: facts[key] for key in ("family", "language", "layer", "revision", "sha256")}


def check_origin(path: Path, language: str | None, layer: int | str | None) -> None:
    """Check that an extracted file has the layer that a run names.

    Args:
        path: What ``extract_block`` wrote.
        language: The run's language model.
        layer: The run's layer.

    Raises:
        ValueError: If it is another one, or the file is none of these.
    """
    facts = block_facts(path)
    if (facts["language"], facts["layer"]) != (language, layer):
        raise ValueError(
            f"{path}: must be layer {layer} of {language}, as the run says, got layer "
            f"{facts['layer']} of {facts['language']}. Give --block of the run."
        )


def empty_block(config: PretrainedConfig, language: str) -> Block:
    """Return a block with shapes but without weights, on torch's ``meta`` device."""
    return Block(config, language, 0, dict(empty_layer(config, 0).state_dict()))


def padding_mask(
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
