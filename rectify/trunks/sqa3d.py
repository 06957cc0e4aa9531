"""SQA3D's model (Ma et al., ICLR 2023): VoteNet looks, an LSTM listens, MCAN brings them together.

    situation, question -> LSTM -> linear -> self-attention of each        \\
    room -> VoteNet's proposals -> linear -> guided by the situation, then by the question -> decode

A block is one layer that guides the proposals (Yu et al., CVPR 2019): they attend to themselves,
then to the words. The tokens are the proposals, so that is where a frozen layer comes; the words
and what the detector said are their context. Published is a width of 256, and of 768 in Pang et
al.; with 706 answers and given word vectors there are 10,428,784 and 75,377,520 parameters.
"""

import copy
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rectify.data.situations import PADDING
from rectify.language.block import padding_mask
from rectify.trunks.trunk import Tokens, check_heads, permuted_
from rectify.trunks.votenet import DetectorSizes, VoteNet
from rectify.typed import parse

POSE = 7  # place and quaternion
SEEDED = 3
"""Known points that interpolation needs at least."""


class Sizes(DetectorSizes, strict=True):
    """``overrides`` of SQA3D's model."""

    dim: PositiveInt = 256
    depth: PositiveInt = 2
    """Layers of each of the four stacks; twice as many are blocks."""
    heads: PositiveInt = 8
    dropout: float = Field(0.1, ge=0, lt=1)
    word_dropout: float = Field(0.3, ge=0, lt=1)
    answer_dropout: float = Field(0.3, ge=0, lt=1)
    embedding: PositiveInt = 300
    """Of a word: the length of the given vectors, or of those that are learned."""
    pool_hidden: PositiveInt = 256
    pool: PositiveInt = 512
    """Of what is left of each stream."""
    hides: bool = True
    """Whether proposals that are judged to be no object are passed over by the guided layers."""
    mask: Literal["none", "objects"] = "none"
    """Whether the frozen layer passes over them as well."""


def length_of_words(overrides: Mapping[str, object]) -> int:
    """Return how long the vectors of words must be.

    Raises:
        ValueError: If a size is unknown or not of its type.
    """
    return parse(Sizes, dict(overrides), "visions.overrides").embedding


class Heard(NamedTuple):
    """What blocks and ``decode`` need besides the proposals.

    Attributes:
        situation: Its words.
        question: Its words.
        situation_padding: True where there is no word.
        question_padding: True where there is no word.
        hidden: True for proposals that are passed over.
        said: Of seeds and proposals, by the detector.
    """

    situation: Float[Tensor, "batch words dim"]
    question: Float[Tensor, "batch words dim"]
    situation_padding: Bool[Tensor, "batch words"]
    question_padding: Bool[Tensor, "batch words"]
    hidden: Bool[Tensor, "batch proposals"]
    said: dict[str, Tensor]


class Sqa3d(nn.Module):
    """SQA3D's model as a trunk: see ``rectify.trunks.trunk``."""

    @classmethod
    def of(
        cls,
        overrides: Mapping[str, object],
        *,
        answers: int,
        words: int | None,
        points: int,
        features: int,
    ) -> "Sqa3d":
        """Return a model with random weights.

        Args:
            overrides: Sizes that differ from the published ones, by the names of ``Sizes``.
            answers: Outputs of the head.
            words: That the model learns vectors of; None where texts come as vectors.
            points: Of a room.
            features: Of a point, besides its place.

        Raises:
            ValueError: If a size is unknown or cannot be right.
        """
        sizes = parse(Sizes, dict(overrides), "visions.overrides")
        check_heads("SQA3D's model", sizes.dim, sizes.heads)
        falling = (points, *sizes.sets, SEEDED)
        if list(falling) != sorted(falling, reverse=True):
            raise ValueError(
                f"vision: sets of SQA3D's model must fall from at most the {points} points of a "
                f"room to at least {SEEDED}, got {', '.join(map(str, sizes.sets))}. Correct "
                "overrides."
            )
        knowing = (points, *sizes.sets[:-1], sizes.sets[1], sizes.sets[1])
        wanted = (*sizes.group_sizes, sizes.vote_group, sizes.proposals)
        if any(few < many for few, many in zip(knowing, wanted, strict=True)):
            raise ValueError(
                "vision: group_sizes, vote_group and proposals of SQA3D's model must not exceed "
                f"the points that they are taken from, {', '.join(map(str, knowing))}, got "
                f"{', '.join(map(str, wanted))}. Correct overrides."
            )
        return cls(sizes, answers, words, features)

    def __init__(self, sizes: Sizes, answers: int, words: int | None, features: int):
        super().__init__()
        dim, depth = sizes.dim, sizes.depth
        self.dim, self.depth, self.hides, self.mask = dim, depth, sizes.hides, sizes.mask
        self.words = None if words is None else nn.Embedding(words, sizes.embedding, PADDING)
        self.word_dropout = nn.Dropout(sizes.word_dropout)
        self.listener = nn.LSTM(sizes.embedding, dim, batch_first=True)
        self.detector = VoteNet(sizes, features)
        self.text_linear = nn.Linear(dim, dim)  # one for both texts
        self.object_linear = nn.Linear(self.detector.dim, dim)
        self.situation_layers = nn.ModuleList(Layer(sizes, guided=False) for _ in range(depth))
        self.question_layers = nn.ModuleList(Layer(sizes, guided=False) for _ in range(depth))
        self.layers = nn.ModuleList(Layer(sizes, guided=True) for _ in range(2 * depth))
        self.head = Head(sizes, answers)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The guided layers by their index."""
        return {f"{index}": layer for index, layer in enumerate(self.layers)}

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return the proposals as tokens; words and what was said of proposals are the context.

        Args:
            inputs: ``points`` ``(batch, points, 3)`` and their ``features``; ``situation`` and
                ``question``, word numbers ``(batch, words)`` with ``PADDING`` after the end, or
                vectors ``(batch, words, length)``, 0 there.
        """
        found, said = self.detector(inputs["points"], inputs["features"])
        texts = []
        for name, layers in (
            ("situation", self.situation_layers), ("question", self.question_layers)
        ):  # fmt: skip
            heard, padding = self._heard(inputs[name])
            unseen = padding_mask(padding, heard.dtype)
            for layer in layers:
                heard = layer(heard, unseen)
            texts.append((heard, padding))
        (situation, one), (question, other) = texts
        is_none = said["objectness"].argmax(2) == 0
        hidden = is_none if self.hides else torch.zeros_like(is_none)
        context = Heard(situation, question, one, other, hidden, said)
        values = nn.functional.gelu(self.object_linear(found))
        return Tokens(values, hidden if self.mask == "objects" else None, context)

    def _heard(
        self, text: Shaped[Tensor, "batch words *vectors"]
    ) -> tuple[Float[Tensor, "batch words dim"], Bool[Tensor, "batch words"]]:
        """Return a text's words as the LSTM hears them one after the other, and what is padding."""
        if self.words is None:
            padding, vectors = (text == 0).all(2), text
        else:
            padding, vectors = text == PADDING, self.words(text)
        heard, _ = self.listener(self.word_dropout(vectors))
        return nn.functional.gelu(self.text_linear(heard)), padding

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        heard, values = tokens.context, tokens.values
        unseen = padding_mask(heard.hidden, values.dtype)
        for index in range(start, stop):
            words, padding = (
                (heard.situation, heard.situation_padding)
                if index < self.depth
                else (heard.question, heard.question_padding)
            )
            silent = padding_mask(padding, values.dtype)
            values = self.layers[index](values, unseen, words, silent)
        return tokens._replace(values=values)

    def decode(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return a logit for each ``answers``, the ``pose``, and what the detector said."""
        return self.head(tokens)

    def representation(self, tokens: Tokens) -> Float[Tensor, "batch features"]:
        """Return the pooled situation, question and proposals."""
        return torch.cat(self.head.pooled(tokens), 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.decode(self.run(self.embed(inputs), 0, len(self.layers)))

    def second_head(self, generator: torch.Generator) -> "Head":
        """Return other poolers with heads, of the same distribution as these."""
        return permuted_(copy.deepcopy(self.head), generator)


class UnbiasedNorm(nn.Module):
    """A layer's norm by the unbiased deviation, as MCAN has it: not torch's ``LayerNorm``."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, values: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        centred = values - values.mean(-1, keepdim=True)
        deviation = values.std(-1, keepdim=True)
        return self.weight * centred / (deviation + self.eps) + self.bias


class Attention(nn.Module):
    """Tokens attend to themselves, or to others, in several heads."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.value, self.merge = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        others: Float[Tensor, "batch others dim"],
        unseen: Float[Tensor, "batch 1 1 others"],
    ) -> Float[Tensor, "batch tokens dim"]:
        query, key, value = (
            linear(one).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear, one in ((self.query, tokens), (self.key, others), (self.value, others))
        )
        rate = self.dropout if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, unseen, rate)
        return self.merge(seen.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention, attention to the words where it is guided, two linears; a norm after each."""

    def __init__(self, sizes: Sizes, *, guided: bool):
        super().__init__()
        dim, parts = sizes.dim, 3 if guided else 2
        self.attentions = nn.ModuleList(
            Attention(dim, sizes.heads, sizes.dropout) for _ in range(parts - 1)
        )
        self.hidden, self.output = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norms = nn.ModuleList(UnbiasedNorm(dim) for _ in range(parts))
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        unseen: Float[Tensor, "batch 1 1 tokens"],
        words: Float[Tensor, "batch words dim"] | None = None,
        silent: Float[Tensor, "batch 1 1 words"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        seen = self.attentions[0](tokens, tokens, unseen)
        values = self.norms[0](tokens + self.dropout(seen))
        if words is not None:
            heard = self.attentions[1](values, words, silent)
            values = self.norms[1](values + self.dropout(heard))
        made = self.output(self.dropout(nn.functional.gelu(self.hidden(values))))
        return self.norms[-1](values + self.dropout(made))


class Pool(nn.Module):
    """A weighted mean of a stream's tokens, and a linear."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.hidden, self.score = (
            nn.Linear(sizes.dim, sizes.pool_hidden),
            nn.Linear(sizes.pool_hidden, 1),
        )
        self.merge, self.dropout = nn.Linear(sizes.dim, sizes.pool), nn.Dropout(sizes.dropout)

    def forward(
        self, tokens: Float[Tensor, "batch tokens dim"], padding: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch pool"]:
        scores = self.score(self.dropout(nn.functional.gelu(self.hidden(tokens))))
        shares = scores.masked_fill(padding[..., None], torch.finfo(scores.dtype).min).softmax(1)
        return self.merge((shares * tokens).sum(1))


class Head(nn.Module):
    """Poolers of all three streams, and two linears each for the answer and for the pose."""

    def __init__(self, sizes: Sizes, answers: int):
        super().__init__()
        self.situation, self.question, self.objects = (Pool(sizes) for _ in range(3))
        self.hidden, self.output = (
            nn.Linear(3 * sizes.pool, sizes.dim),
            nn.Linear(sizes.dim, answers),
        )
        self.pose_hidden = nn.Linear(2 * sizes.pool, sizes.dim)
        self.pose = nn.Linear(sizes.dim, POSE)
        self.answer_dropout = nn.Dropout(sizes.answer_dropout)
        self.dropout = nn.Dropout(sizes.dropout)

    def pooled(self, tokens: Tokens) -> list[Float[Tensor, "batch pool"]]:
        heard = tokens.context
        return [
            self.situation(heard.situation, heard.situation_padding),
            self.question(heard.question, heard.question_padding),
            self.objects(tokens.values, heard.hidden),
        ]

    def forward(self, tokens: Tokens) -> dict[str, Tensor]:
        situation, question, objects = self.pooled(tokens)
        hidden = nn.functional.gelu(self.hidden(torch.cat([situation, question, objects], 1)))
        answers = self.output(self.answer_dropout(hidden))
        own = nn.functional.gelu(self.pose_hidden(torch.cat([situation, objects], 1)))
        pose = self.pose(self.dropout(own))
        return {**tokens.context.said, "answers": answers, "pose": pose}
