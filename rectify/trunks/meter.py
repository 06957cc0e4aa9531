"""METER (Dou et al., CVPR 2022) without vision-language pretraining, as Pang et al. train it.

    image    -> CLIP's ViT-B/32 without its last block, final norm -> linear + type 1 --\\
                                                                            co-attention -> decode
    question -> RoBERTa-base                                       -> linear + type 0 --/

A block is one co-attention layer: each stream attends to itself, then to the other as it was before
the block. The tokens are the image's, unless ``stream`` says otherwise, so that is where a frozen
layer comes; the question's are their context. The parts are libraries': a ViT of timm,
``RobertaModel``, and ``BertLayer`` with cross-attention. With the published sizes and 3,129 answers
there are 327,381,561 parameters.
"""

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Literal, NamedTuple

import timm
import torch
from jaxtyping import Bool, Float, Int64
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import BertConfig, RobertaConfig, RobertaModel
from transformers.models.bert.modeling_bert import BertLayer

from rectify.data.texts import PADDING
from rectify.language.block import padding_mask
from rectify.language.families import without_causal_mask
from rectify.trunks.trunk import Tokens, check_heads, permuted_
from rectify.typed import Closed, parse

CLIP = "vit_base_patch32_clip_quickgelu_224"
"""timm's ViT with OpenAI's activation; the one without ``quickgelu`` computes something else."""
WIDTH = 768  # as published, of all parts
IMAGE, TEXT = 1, 0
"""Rows of the types' embedding."""


class Sizes(Closed, strict=True):
    """``overrides`` of a METER; those of the fusion, unless they say otherwise."""

    dim: PositiveInt = WIDTH
    depth: PositiveInt = 6
    """Co-attention blocks."""
    heads: PositiveInt = 12
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the fusion and of RoBERTa."""
    stream: Literal["image", "text", "both", "joint"] = "image"
    """Whose tokens a frozen layer sees: the image's, the question's, those of both, one stream
    after the other, or of both as one sequence."""
    patch_size: PositiveInt = 32
    image_dim: PositiveInt = WIDTH
    image_depth: PositiveInt = 11
    """Blocks of the ViT: METER leaves out the last of CLIP's twelve."""
    image_heads: PositiveInt = 12
    text_dim: PositiveInt = WIDTH
    text_depth: PositiveInt = 12
    text_heads: PositiveInt = 12
    positions: PositiveInt = 514
    """RoBERTa's; a question has at most two tokens fewer."""


class Streams(NamedTuple):
    """What the blocks see.

    Attributes:
        image: Its tokens.
        words: The question's tokens.
        padding: True where the question has no token.
        candidates: Pairs of each sample, one after the other along the batch.
    """

    image: Float[Tensor, "batch tokens dim"]
    words: Float[Tensor, "batch words dim"]
    padding: Bool[Tensor, "batch words"]
    candidates: int = 1


class Meter(nn.Module):
    """METER as a trunk: see ``rectify.trunks.trunk``."""

    @classmethod
    def of(
        cls,
        overrides: Mapping[str, object],
        *,
        answers: int,
        words: int = 50265,
        image_size: int = 224,
    ) -> "Meter":
        """Return a METER with random weights.

        Args:
            overrides: Sizes that differ from the published ones, by the names of ``Sizes``.
            answers: Outputs of the head.
            words: Tokens of the questions' vocabulary: RoBERTa's.
            image_size: Height and width of the images in pixels.

        Raises:
            ValueError: If a size is unknown or cannot be right.
        """
        sizes = parse(Sizes, dict(overrides), "visions.overrides")
        for part in ("", "image_", "text_"):
            dim, heads = (getattr(sizes, f"{part}{name}") for name in ("dim", "heads"))
            check_heads("a METER", dim, heads, part)
        if image_size % sizes.patch_size:
            raise ValueError(
                f"vision: the image size of a METER must be a multiple of patch_size "
                f"{sizes.patch_size}, got {image_size}. Correct overrides."
            )
        return cls(sizes, answers, words, image_size)

    def __init__(self, sizes: Sizes, answers: int, words: int, image_size: int):
        super().__init__()
        self.dim, self.stream = sizes.dim, sizes.stream
        self.image = timm.create_model(
            CLIP,
            num_classes=0,
            img_size=image_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.image_dim,
            depth=sizes.image_depth,
            num_heads=sizes.image_heads,
        )
        self.text = RobertaModel(_roberta(sizes, words), add_pooling_layer=False)
        self.image_transform = nn.Linear(sizes.image_dim, sizes.dim)
        self.text_transform = nn.Linear(sizes.text_dim, sizes.dim)
        self.types = nn.Embedding(2, sizes.dim)
        self.layers = nn.ModuleList(self.new_block(sizes) for _ in range(sizes.depth))
        self.head = self.new_head(sizes, answers)
        for part in (self.image_transform, self.text_transform, self.types, self.layers, self.head):
            part.apply(partial(_initialise, deviation=_deviation(sizes.dim)))

    def new_block(self, sizes: Sizes) -> nn.Module:
        """Return one block."""
        return CoAttention(sizes)

    def new_head(self, sizes: Sizes, answers: int) -> "Pooler":
        """Return what both streams are judged by."""
        return Head(sizes.dim, answers, sizes.stream)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The co-attention blocks by their index."""
        return {f"{index}": block for index, block in enumerate(self.layers)}

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return the tokens of the chosen stream; the other's are the context.

        Args:
            inputs: ``images`` ``(batch, 3, height, width)``, and ``words`` ``(batch, words)``, the
                question's token numbers, ``PADDING`` after its end.

        Raises:
            ValueError: If a question has more tokens than there are positions for.
        """
        question, padding = self.heard(inputs["words"])
        return packed(Streams(self.seen(inputs["images"]), question, padding), self.stream)

    def seen(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of images as they enter the first block."""
        return self.image_transform(self.image.forward_features(images)) + self.types.weight[IMAGE]

    def heard(
        self, words: Int64[Tensor, "batch words"]
    ) -> tuple[Float[Tensor, "batch words dim"], Bool[Tensor, "batch words"]]:
        """Return the tokens of texts as they enter the first block, and where there is none.

        Raises:
            ValueError: If a text has more tokens than there are positions for.
        """
        most = self.text.config.max_position_embeddings - 2
        if words.shape[1] > most:
            raise ValueError(
                f"vision: a text must have at most {most} tokens, got {words.shape[1]}. Cut it, or "
                "raise positions in overrides."
            )
        padding = words == PADDING
        there = None if words.is_meta else (~padding).long()  # shapes alone have no padding
        heard = self.text(words, attention_mask=there).last_hidden_state
        return self.text_transform(heard) + self.types.weight[TEXT], padding

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        streams = unpacked(tokens, self.stream)
        image, words = streams.image, streams.words
        hidden = padding_mask(streams.padding, image.dtype)
        for block in self.layers[start:stop]:
            image, words = block(image, words, hidden)
        return packed(streams._replace(image=image, words=words), self.stream)

    def decode(self, tokens: Tokens) -> Float[Tensor, "batch answers"]:
        """Return a logit for each answer."""
        return self.head(tokens)

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return the pooled first tokens of both streams, the question's first."""
        return self.head.pooled(tokens)

    def patches(self, tokens: Tokens) -> Float[Tensor, "batch rows columns dim"]:
        """Return the tokens of the image's patches, where these are."""
        image = unpacked(tokens, self.stream).image[:, self.image.num_prefix_tokens :]
        return image.unflatten(1, self.image.patch_embed.grid_size)

    def forward(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch answers"]:
        return self.decode(self.run(self.embed(inputs), 0, len(self.layers)))

    def second_head(self, generator: torch.Generator) -> "Pooler":
        """Return another pair of poolers with a head, of the same distribution as this one's."""
        return permuted_(copy.deepcopy(self.head), generator)


def packed(streams: Streams, stream: str) -> Tokens:
    """Return what a frozen layer sees as the tokens, and the rest as their context."""
    image, words, padding = streams.image, streams.words, streams.padding
    if stream == "image":
        return Tokens(image, context=streams)
    if stream == "text":
        return Tokens(words, padding, streams)
    seen = torch.zeros_like(image[:, :, 0], dtype=torch.bool)
    if stream == "joint":
        return Tokens(torch.cat([image, words], 1), torch.cat([seen, padding], 1), streams)
    both = [(image, seen), (words, padding)]  # the batch twice, as long as the longer one
    longest = max(image.shape[1], words.shape[1])
    values = [pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in both]
    hidden = [pad(one, (0, longest - one.shape[1]), value=True) for _, one in both]
    return Tokens(torch.cat(values), torch.cat(hidden), streams)


def unpacked(tokens: Tokens, stream: str) -> Streams:
    """Return both streams, from what `packed` returned, though the tokens have changed."""
    image, words = tokens.context.image, tokens.context.words
    values = tokens.values
    if stream == "image":
        image = values
    elif stream == "text":
        words = values
    elif stream == "joint":
        image, words = values.split([image.shape[1], words.shape[1]], 1)
    else:
        image, words = (
            one[:, : before.shape[1]]
            for one, before in zip(values.chunk(2), (image, words), strict=True)
        )
    return tokens.context._replace(image=image, words=words)


class CoAttention(nn.Module):
    """One layer of each stream: both see the other as it came in."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        config = BertConfig(
            hidden_size=sizes.dim,
            num_attention_heads=sizes.heads,
            intermediate_size=4 * sizes.dim,
            hidden_dropout_prob=sizes.dropout,
            attention_probs_dropout_prob=sizes.dropout,
            is_decoder=True,  # a BertLayer has cross-attention as a decoder only, ...
            add_cross_attention=True,
            attn_implementation="sdpa",
        )
        # ... and a decoder's attention is causal where it has no mask, as the image's has none
        self.image, self.text = (without_causal_mask(BertLayer(config)) for _ in range(2))

    def forward(
        self,
        image: Float[Tensor, "batch tokens dim"],
        words: Float[Tensor, "batch words dim"],
        hidden: Float[Tensor, "batch 1 1 words"],
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch words dim"]]:
        """Return both streams.

        Args:
            image: Has no padding.
            words: Of the question.
            hidden: What is added to the scores of its words.
        """
        return self.image(image, None, words, hidden), self.text(words, hidden, image, None)


class Pooler(nn.Module):
    """A linear for each stream's first token."""

    def __init__(self, dim: int, stream: str):
        super().__init__()
        self.stream = stream
        self.text_pooler, self.image_pooler = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def pooled(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return both first tokens, the text's in front."""
        streams = unpacked(tokens, self.stream)
        text = self.text_pooler(streams.words[:, 0]).tanh()
        return torch.cat([text, self.image_pooler(streams.image[:, 0]).tanh()], 1)


class Head(Pooler):
    """Two linears behind the poolers, to a logit for each answer."""

    def __init__(self, dim: int, answers: int, stream: str):
        super().__init__(dim, stream)
        self.hidden, self.norm = nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim)
        self.output = nn.Linear(2 * dim, answers)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch answers"]:
        hidden = self.norm(self.hidden(self.pooled(tokens)))
        return self.output(nn.functional.gelu(hidden))


def _roberta(sizes: Sizes, words: int) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=words,
        hidden_size=sizes.text_dim,
        num_hidden_layers=sizes.text_depth,
        num_attention_heads=sizes.text_heads,
        intermediate_size=4 * sizes.text_dim,
        max_position_embeddings=sizes.positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
        pad_token_id=PADDING,
        initializer_range=_deviation(sizes.text_dim),
        attn_implementation="sdpa",
    )


def _deviation(dim: int) -> float:
    """Return the deviation of first weights: METER's 0.02, larger where fewer terms are summed.

    With 0.02 at any width a narrow model hardly passes on what it is given.
    """
    return 0.02 * math.sqrt(WIDTH / dim)


def _initialise(module: nn.Module, deviation: float) -> None:
    """Draw the new parts as METER: normal, biases 0, norms 1."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
