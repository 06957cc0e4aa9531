"""Features of captions from every decoder layer of a language model, one layer at a time.

As in Huh et al. (2024): the output of every decoder layer, before the final norm, averaged
over the caption's tokens, special ones included. Here the model is a language model: it has
its positions and its causal mask.

The tokens of all captions pass one layer before the next is read, so that a model of any depth
needs the memory of one layer, and each of its bytes is read once. What a layer is called with
besides tokens (mask, positions) is what transformers' own model calls it with: the model runs
once with recorders in place of its layers. Captions of equal length go together, so that no
token is padding.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PretrainedConfig

from rectify.language import gguf_format, meta_format
from rectify.language.families import FAMILIES, empty_layer, empty_model, empty_norm
from rectify.language.files import read_revision, read_settings
from rectify.language.tokens import tokenized
from rectify.language.weights import (
    drawn,
    embedding_tensors,
    layer_tensors,
    module_tensors,
    norm_tensors,
    read_config,
    sha256,
)
from rectify.tensors import Tensors
from rectify.typed import check_known

Device = torch.device | str
Own = Callable[[Tensors, str], Tensors]
"""From a part's weights in the checkpoint, and its name, to those that it has."""


class Procedure(NamedTuple):
    """Which states of a language model are features; by default those after its layers.

    The published command line of Huh et al. (2024) has the first two set, since transformers'
    hidden states begin with the embedding and end after the final norm.

    Attributes:
        embedding: Whether what enters the first layer counts as a layer before it.
        final_norm: Whether the last layer's output passes the model's final norm, if it has one.
        first_token: Whether a caption's first token, often special, is in the mean over tokens.
    """

    embedding: bool = False
    final_norm: bool = False
    first_token: bool = True

    @property
    def first_layer(self) -> int:
        """The layer whose features come first: -1 is the embedding."""
        return -1 if self.embedding else 0


def procedure_of(given: Mapping[str, object]) -> Procedure:
    """Return the procedure that the option ``--procedure`` describes.

    Raises:
        ValueError: If a key is unknown, or its value neither true nor false.
    """
    for key, value in given.items():
        check_known("language-features: --procedure", key, Procedure._fields, "a known key")
        check_known(f"language-features: --procedure {key}", value, [True, False], "true or false")
    return Procedure(**given)


class Origin(NamedTuple):
    """What features were computed from.

    Attributes:
        revision: Of the checkpoint on its hub; None if unknown.
        sha256: Digests of its ``config``, of its ``weights`` up to the last layer (and of the
            final norm where it counts), and of the captions' ``tokens``.
    """

    revision: str | None
    sha256: dict[str, str]


PUBLISHED = Procedure()


class Call(NamedTuple):
    """What a layer is called with after its tokens."""

    arguments: tuple[object, ...]
    named: dict[str, object]


class Recorder(nn.Module):
    """Takes the place of a decoder layer, lets tokens pass and notes what it is called with."""

    def __init__(self, in_tuple: bool):
        super().__init__()
        self.in_tuple = in_tuple
        self.inputs: list[Tensor] = []
        self.calls: list[Call] = []

    def forward(
        self, tokens: Tensor, *arguments: object, **named: object
    ) -> Tensor | tuple[Tensor]:
        self.inputs.append(tokens)
        self.calls.append(Call(arguments, named))
        return (tokens,) if self.in_tuple else tokens


def caption_features(
    checkpoint: Path | str,
    captions: list[str],
    batch_size: int,
    procedure: Procedure = PUBLISHED,
    *,
    untrained: int | None = None,
    device: Device = "cpu",
) -> tuple[Float[Tensor, "layers captions dim"], Origin]:
    """Return each decoder layer's output averaged over each caption, and what was read.

    Args:
        checkpoint: Folder in Hugging Face format with the model's own tokenizer, or a ``.gguf``.
        captions: Texts without a prompt, never cut.
        batch_size: Captions that pass a layer together; changes the result by rounding only.
        procedure: Which states count; the layers are those of the model, unless it says more.
        untrained: Seed of weights that are drawn in place of the trained ones, if not None: the
            same model with the same tokenizer that was never trained.
        device: Where the model runs, in float32; tokens between layers are kept in memory.

    Raises:
        ValueError: If the folder is not complete, or a caption has no or too many tokens.
    """
    checkpoint = Path(checkpoint)
    config = read_config(checkpoint)
    first = 0 if procedure.first_token else 1
    rows = _token_rows(checkpoint, captions, config, least=first + 1)
    batches = _batches(rows, batch_size)
    texts = [torch.tensor([rows[item] for item in items]) for items in batches]

    def own(weights: Tensors, part: str) -> Tensors:
        return weights if untrained is None else drawn(weights, config, untrained, part)

    states, calls, digest = _first_inputs(checkpoint, config, texts, own, device)
    digests, in_tuple = [digest], FAMILIES[config.model_type].in_tuple
    before = -procedure.first_layer
    means = torch.empty(before + config.num_hidden_layers, len(rows), config.hidden_size)
    if procedure.embedding:
        for tokens, items in zip(states, batches, strict=True):
            means[0, items] = tokens[:, first:].mean(1)
    for index in range(config.num_hidden_layers):
        weights = own(layer_tensors(checkpoint, config, index), f"layer {index}")
        digests.append(sha256(weights))
        layer = _with_weights(empty_layer(config, index), weights).to(device)
        for number, items in enumerate(batches):
            call = calls[number][index]
            output = layer(states[number].to(device), *call.arguments, **call.named)
            states[number] = (output[0] if in_tuple else output).cpu()
            means[before + index, items] = states[number][:, first:].mean(1)
    if procedure.final_norm and (norm := empty_norm(config)) is not None:
        weights = own(norm_tensors(checkpoint, config), "norm")
        digests.append(sha256(weights))
        norm = _with_weights(norm, weights)
        for tokens, items in zip(states, batches, strict=True):
            means[-1, items] = norm(tokens)[:, first:].mean(1)
    settings = json.dumps(read_settings(checkpoint), sort_keys=True)
    read = {"config": settings, "weights": "".join(digests), "tokens": json.dumps(rows)}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in read.items()}
    return means, Origin(read_revision(checkpoint), hashes)


def _token_rows(
    checkpoint: Path, captions: list[str], config: PretrainedConfig, least: int = 1
) -> list[list[int]]:
    if gguf_format.is_here(checkpoint):
        gguf_format.check_positions(checkpoint)
    elif meta_format.is_here(checkpoint):
        raise ValueError(
            f"{checkpoint}: must be in Hugging Face format for features of captions, got Meta's. "
            "Convert the checkpoint; Meta's format is enough for single blocks."
        )
    rows = tokenized(checkpoint, captions)
    longest = getattr(config, "max_position_embeddings", None)
    for caption, row in zip(captions, rows, strict=True):
        if not least <= len(row) <= (longest or len(row)):
            raise ValueError(
                f"{checkpoint}: a caption must have {least}..{longest} tokens, got {len(row)} for "
                f"{caption[:40]!r}. Change the caption, or use a model with a longer context."
            )
        if max(row) >= config.vocab_size:
            raise ValueError(
                f"{checkpoint}: tokens must lie in 0..{config.vocab_size - 1}, got {max(row)} in "
                f"{caption[:40]!r}. Get the tokenizer of this very model."
            )
    return rows


def _batches(rows: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return the items of each batch; all its rows have the same length."""
    lengths: dict[int, list[int]] = {}
    for item, row in enumerate(rows):
        lengths.setdefault(len(row), []).append(item)
    return [
        items[start : start + batch_size]
        for _, items in sorted(lengths.items())
        for start in range(0, len(items), batch_size)
    ]


def _first_inputs(
    checkpoint: Path, config: PretrainedConfig, texts: list[Tensor], own: Own, device: Device
) -> tuple[list[Tensor], list[list[Call]], str]:
    """Return each batch's input to layer 0 and its call of each layer, and a digest.

    The digest is that of the weights before the layers.
    """
    family = FAMILIES[config.model_type]
    recorders = [Recorder(family.in_tuple) for _ in range(config.num_hidden_layers)]
    model, embedding = _without_layers(config, recorders)
    table = own(embedding_tensors(checkpoint, config, embedding), "table")
    weights = own(module_tensors(checkpoint, config, model), "before the layers")
    digest = sha256(table | weights)
    _with_weights(model, weights).to(device)
    [vectors] = table.values()
    scale = getattr(embedding, "scalar_embed_scale", 1.0)  # Gemma's
    for text in texts:
        model(inputs_embeds=(vectors[text].float() * scale).to(device), use_cache=False)
    calls = zip(*(recorder.calls for recorder in recorders), strict=True)  # by batch
    return [tokens.cpu() for tokens in recorders[0].inputs], [list(each) for each in calls], digest


def _without_layers(
    config: PretrainedConfig, recorders: list[Recorder]
) -> tuple[nn.Module, nn.Module]:
    """Return the model with recorders for layers, and its embedding; both without weights.

    What is not needed up to the layers is taken out, so that it need not be read.
    """
    family, model = FAMILIES[config.model_type], empty_model(config)
    embedding = getattr(model, family.embedding)
    setattr(model, family.stem, nn.ModuleList(recorders))
    for name in (family.embedding, family.norm, "project_out"):
        if getattr(model, name, None) is not None:
            setattr(model, name, nn.Identity())
    if hasattr(model, "rotary_emb"):  # constants, which no checkpoint has
        model.rotary_emb = type(model.rotary_emb)(config)
    return model, embedding


def _with_weights(module: nn.Module, weights: Tensors) -> nn.Module:
    """Return the module itself with these weights, frozen and in float32."""
    module.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
    return module.requires_grad_(False)
