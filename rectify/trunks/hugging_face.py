"""Vision transformers of the library transformers: ViT, DeiT, DINOv2, DINOv3, SigLIP and CLIP.

Each is embeddings, layers, a final norm, and what is read from there: the class token, a mean
over patches, or attention. A model for classification has a classifier behind it.
"""

import copy
import re
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.trunks.trunk import Groups, Inputs, Outputs, Tokens, permuted_

PIXELS = "pixel_values"  # the name of a model's images in transformers

Read = Callable[[nn.Module, Tensor, Tensor], Tensor | None]
"""From an encoder, tokens, and these behind its final norm, to a vector for each image."""


def class_token(_encoder: nn.Module, values: Tensor, _normed: Tensor) -> Tensor:
    """The class token before the final norm: features, as in Huh et al. (2024)."""
    return values[:, 0]


def normed_class_token(_encoder: nn.Module, _values: Tensor, normed: Tensor) -> Tensor:
    """The class token behind the final norm."""
    return normed[:, 0]


def pooler(encoder: nn.Module, _values: Tensor, normed: Tensor) -> Tensor | None:
    """What the encoder's pooler makes of the class token; None where it has none."""
    return None if encoder.pooler is None else encoder.pooler(normed)


def attention(encoder: nn.Module, _values: Tensor, normed: Tensor) -> Tensor | None:
    """What the encoder's attention pooling gives; None where it has none."""
    return encoder.head(normed) if encoder.use_head else None


def mean(_encoder: nn.Module, _values: Tensor, normed: Tensor) -> Tensor:
    """The mean of all tokens behind the final norm."""
    return normed.mean(1)


def mean_of_patches(_encoder: nn.Module, values: Tensor, _normed: Tensor) -> Tensor:
    """The mean of all tokens but the class token, before the final norm."""
    return values[:, 1:].mean(1)


def class_token_and_mean(encoder: nn.Module, _values: Tensor, normed: Tensor) -> Tensor:
    """The class token and the mean of the patches, one behind the other: twice as wide."""
    registers = getattr(encoder.config, "num_register_tokens", 0)
    return torch.cat([normed[:, 0], normed[:, 1 + registers :].mean(1)], dim=1)


class Encoder(NamedTuple):
    """Where the parts of an encoder are, and what it gives."""

    layers: str
    """Dotted name of the list of layers."""
    norm: str
    """Name of the final norm."""
    pooled: Read
    """Its ``pooler_output``."""
    features: Read
    """What is read as a feature of the image."""
    before: str | None = None
    """Name of a norm in front of the layers."""
    is_normed: bool = True
    """Whether its ``last_hidden_state`` is behind the final norm."""


class Classifier(NamedTuple):
    """What a model for classification reads from the encoder in it."""

    encoder: str
    """Name of the encoder."""
    pooled: Read
    """What goes into the classifier."""
    features: Read
    """What is read as a feature of the image."""


ENCODERS = {
    "vit.modeling_vit.ViTModel": Encoder("layers", "layernorm", pooler, class_token),
    "deit.modeling_deit.DeiTModel": Encoder("layers", "layernorm", pooler, class_token),
    "dinov2.modeling_dinov2.Dinov2Model": Encoder(
        "encoder.layer", "layernorm", normed_class_token, class_token
    ),
    "dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersModel": Encoder(
        "encoder.layer", "layernorm", normed_class_token, class_token
    ),
    "dinov3_vit.modeling_dinov3_vit.DINOv3ViTModel": Encoder(
        "model.layer", "norm", normed_class_token, class_token
    ),
    "siglip.modeling_siglip.SiglipVisionModel": Encoder(
        "encoder.layers", "post_layernorm", attention, attention
    ),
    "clip.modeling_clip.CLIPVisionModel": Encoder(
        "encoder.layers", "post_layernorm", normed_class_token, class_token, "pre_layrnorm", False
    ),
}
"""By class below ``transformers.models``."""

CLASSIFIERS = {
    "vit.modeling_vit.ViTForImageClassification": Classifier(
        "vit", normed_class_token, class_token
    ),
    "deit.modeling_deit.DeiTForImageClassification": Classifier(
        "deit", normed_class_token, class_token
    ),
    "dinov2.modeling_dinov2.Dinov2ForImageClassification": Classifier(
        "dinov2", class_token_and_mean, class_token_and_mean
    ),
    "dinov2_with_registers.modeling_dinov2_with_registers."
    "Dinov2WithRegistersForImageClassification": Classifier(
        "dinov2_with_registers", class_token_and_mean, class_token_and_mean
    ),
    "siglip.modeling_siglip.SiglipForImageClassification": Classifier("vision_model", mean, mean),
    "clip.modeling_clip.CLIPForImageClassification": Classifier(
        "vision_model", mean_of_patches, mean_of_patches
    ),
}
"""By class, models with ``classifier`` behind an encoder."""

LAST = 99999  # in timm's groups, the depth of what belongs to the group before it
PACKAGE = "transformers.models."
Entry = TypeVar("Entry", Encoder, Classifier)


class HuggingFace(nn.Module):
    """A vision model of transformers as a trunk.

    Inputs are images, or a mapping with ``pixel_values``. Outputs are the logits of a model for
    classification; of an encoder alone ``last_hidden_state`` and ``pooler_output``, as far as it
    has them.
    """

    classes: ClassVar[tuple[str, ...]] = tuple(
        f"{PACKAGE}{name}" for name in ENCODERS | CLASSIFIERS
    )

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self._classifier = _entry(model, CLASSIFIERS)
        self._parts = _entry(self._encoder, ENCODERS)
        self.dim = self._encoder.config.hidden_size

    @property
    def _encoder(self) -> nn.Module:
        return getattr(self.model, self._classifier.encoder) if self._classifier else self.model

    @property
    def _prefix(self) -> str:
        """What the names of the encoder's parameters begin with."""
        return f"model.{self._classifier.encoder}." if self._classifier else "model."

    @property
    def plain(self) -> nn.Module:
        """The model of transformers, whose names an exported file has."""
        return self.model

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The layers by their index."""
        layers = self._encoder.get_submodule(self._parts.layers)
        return {str(index): layer for index, layer in enumerate(layers)}

    def embed(self, inputs: Inputs) -> Tokens:
        """Return the tokens that enter layer 0, and as context the rotations of DINOv3."""
        pixels = inputs[PIXELS] if isinstance(inputs, Mapping) else inputs
        encoder = self._encoder
        values = encoder.embeddings(pixels)
        if self._parts.before is not None:
            values = getattr(encoder, self._parts.before)(values)
        rotations = encoder.rope_embeddings(pixels) if hasattr(encoder, "rope_embeddings") else None
        return Tokens(values, context=rotations)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the layers ``start`` ... ``stop - 1``."""
        values = tokens.values
        more = {} if tokens.context is None else {"position_embeddings": tokens.context}
        for layer in list(self.blocks.values())[start:stop]:
            values = layer(values, attention_mask=None, **more)
        return tokens._replace(values=values)

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return what the model judges by, if these tokens left the last layer.

        Raises:
            ValueError: If the model has nothing of that kind.
        """
        read = (self._classifier or self._parts).features
        features = read(self._encoder, tokens.values, self._normed(tokens))
        if features is None:
            raise ValueError(
                f"trunk: features must be one vector for each image, got "
                f"{type(self.model).__name__} without a head. Set vision_use_head."
            )
        return features

    def decode(self, tokens: Tokens) -> Outputs:
        """Return the logits, or the outputs of the encoder."""
        normed = self._normed(tokens)
        read = (self._classifier or self._parts).pooled
        pooled = read(self._encoder, tokens.values, normed)
        if self._classifier is not None:
            return self.model.classifier(pooled)
        outputs = {"last_hidden_state": normed if self._parts.is_normed else tokens.values}
        return outputs if pooled is None else {**outputs, "pooler_output": pooled}

    def forward(self, inputs: Inputs) -> Outputs:
        return self.decode(self.run(self.embed(inputs), 0, len(self.blocks)))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed: class token, registers, positions."""
        embeddings = self._encoder.embeddings
        own = {name for name, _ in embeddings.named_parameters(recurse=False)}
        tables = {
            f"{name}.weight"
            for name, part in embeddings.named_children()
            if isinstance(part, nn.Embedding)
        }
        return {f"{self._prefix}embeddings.{name}" for name in own | tables}

    def group_matcher(self, coarse: bool = False) -> Groups:
        """The layers for layer decay, as timm groups a ViT: the final norm is with the last layer,
        and what is in none, such as the classifier, comes after it.
        """
        prefix, parts = re.escape(self._prefix), self._parts
        stem = "|".join(filter(None, ("embeddings", parts.before)))
        blocks = [
            (rf"^{prefix}{re.escape(parts.layers)}\.(\d+)", None),
            (rf"^{prefix}{parts.norm}\.", (LAST,)),
        ]
        return {"stem": rf"^{prefix}(?:{stem})\.", "blocks": blocks}

    def second_head(self, generator: torch.Generator) -> "SecondHead":
        """Return another final norm, pooling and classifier, of the same distribution."""
        return SecondHead(self, generator)

    def _normed(self, tokens: Tokens) -> Float[Tensor, "batch tokens dim"]:
        return getattr(self._encoder, self._parts.norm)(tokens.values)


class SecondHead(nn.Module):
    """What is behind a trunk's last layer, with weights of its own.

    Args:
        trunk: Whose norm, pooling and classifier are copied.
        generator: Permutes the entries of each matrix, so that the copy is a draw from the same
            distribution.
    """

    def __init__(self, trunk: HuggingFace, generator: torch.Generator):
        super().__init__()
        encoder, parts = trunk._encoder, trunk._parts
        before = [encoder.embeddings, encoder.get_submodule(parts.layers)]
        if parts.before is not None:
            before.append(getattr(encoder, parts.before))
        self.trunk = copy.deepcopy(trunk, {id(part): nn.Identity() for part in before})
        permuted_(self.trunk, generator)

    def forward(self, tokens: Tokens) -> Outputs:
        return self.trunk.decode(tokens)


def _entry(model: nn.Module, entries: Mapping[str, Entry]) -> Entry | None:
    """Return the entry of a model's class, or of the nearest one that it is derived from."""
    for base in type(model).__mro__:
        name = f"{base.__module__}.{base.__qualname__}".removeprefix(PACKAGE)
        if name in entries:
            return entries[name]
    return None
