"""METER on pairs: each sample is an image with several texts, or a text with several images.

Image and texts are encoded once each, and only then paired: the encoders see no pair. While a model
is tested, what all samples share is encoded once for all of them.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.language.block import padding_mask
from rectify.trunks.meter import CoAttention, Meter, Pooler, Sizes, Streams, packed, unpacked
from rectify.trunks.trunk import Tokens

Encoded = TypeVar("Encoded")


class PairMeter(Meter):
    """METER as a trunk whose samples are several pairs: see ``rectify.trunks.trunk``.

    The tokens are those of all pairs, one after the other; the context knows how many a sample has.
    """

    def __init__(self, sizes: Sizes, answers: int, words: int, image_size: int):
        super().__init__(sizes, answers, words, image_size)
        self._shared: dict[int, tuple[Tensor, object]] = {}
        self._weights: list[tuple[int, int]] = []

    @property
    def whole(self) -> tuple[str, ...]:
        """All blocks: within them, pairs are the batch, and not samples."""
        return tuple(self.blocks)

    def new_block(self, sizes: Sizes) -> nn.Module:
        """Return a block for the pairs of samples."""
        return OnPairs(sizes)

    def new_head(self, sizes: Sizes, answers: int) -> "PairHead":
        """Return what ranks pairs."""
        return PairHead(sizes.dim, sizes.stream)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return the tokens of all pairs.

        Args:
            inputs: Each sample's ``images`` ``(batch, 3, height, width)`` with its own ``words``
                ``(batch, candidates, words)``; or with ``texts`` ``(candidates, words)`` that all
                samples share; or each sample's ``words`` ``(batch, words)`` with images that all
                share, ``gallery`` ``(candidates, 3, height, width)``. Texts are numbers of tokens,
                ``PADDING`` behind their end.

        Raises:
            ValueError: If a text has more tokens than there are positions for.
        """
        if "gallery" in inputs:
            seen = self._once(inputs["gallery"], self.seen)
            heard, padding = self.heard(inputs["words"])
            samples, candidates = len(heard), len(seen)
            seen = seen.repeat(samples, 1, 1)
            heard, padding = (one.repeat_interleave(candidates, 0) for one in (heard, padding))
        else:
            seen = self.seen(inputs["images"])
            if "texts" in inputs:
                heard, padding = self._once(inputs["texts"], self.heard)
                candidates = len(heard)
                heard, padding = heard.repeat(len(seen), 1, 1), padding.repeat(len(seen), 1)
            else:
                candidates = inputs["words"].shape[1]
                heard, padding = self.heard(inputs["words"].flatten(0, 1))
            seen = seen.repeat_interleave(candidates, 0)
        return packed(Streams(seen, heard, padding, candidates), self.stream)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        streams = unpacked(tokens, self.stream)
        hidden = padding_mask(streams.padding, streams.image.dtype)
        of_pairs = (streams.image, streams.words, hidden)
        image, words, hidden = (one.unflatten(0, (-1, streams.candidates)) for one in of_pairs)
        for block in self.layers[start:stop]:
            image, words = block(image, words, hidden)
        image, words = image.flatten(0, 1), words.flatten(0, 1)
        return packed(streams._replace(image=image, words=words), self.stream)

    def train(self, mode: bool = True) -> "PairMeter":
        """Set the mode, and forget what was shared."""
        self._shared.clear()
        return super().train(mode)

    def _once(self, shared: Tensor, encode: Callable[[Tensor], Encoded]) -> Encoded:
        """Return what is encoded; at test kept for the same tensor as long as no weight changes."""
        if self.training or torch.is_grad_enabled():
            return encode(shared)
        weights = [(weight.data_ptr(), weight._version) for weight in self.parameters()]
        if weights != self._weights:
            self._shared.clear()
            self._weights = weights
        if id(shared) not in self._shared:  # its tensor is kept, so that the number stays its own
            self._shared[id(shared)] = shared, encode(shared)
        return self._shared[id(shared)][1]


class OnPairs(nn.Module):
    """A co-attention block on the pairs of each sample."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.pair = CoAttention(sizes)

    def forward(
        self,
        image: Float[Tensor, "batch candidates tokens dim"],
        words: Float[Tensor, "batch candidates words dim"],
        hidden: Float[Tensor, "batch candidates 1 1 words"],
    ) -> tuple[
        Float[Tensor, "batch candidates tokens dim"], Float[Tensor, "batch candidates words dim"]
    ]:
        """Return both streams: see ``CoAttention``."""
        shape = image.shape[:2]
        image, words = self.pair(*(one.flatten(0, 1) for one in (image, words, hidden)))
        return image.unflatten(0, shape), words.unflatten(0, shape)


class PairHead(Pooler):
    """A linear behind the poolers: how well image and text of a pair belong together."""

    def __init__(self, dim: int, stream: str):
        super().__init__(dim, stream)
        self.rank = nn.Linear(2 * dim, 1)

    def forward(self, tokens: Tokens) -> Float[Tensor, "batch candidates"]:
        return self.rank(self.pooled(tokens)).view(-1, tokens.context.candidates)
