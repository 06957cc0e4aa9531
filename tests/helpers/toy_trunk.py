"""A trunk that is no ViT: words of sentences with padding, and an offset that decode needs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rectify.trunks.trunk import Tokens

WORDS, DIM, CLASSES = 7, 6, 3


class ToyTrunk(nn.Module):
    """Inputs are ``words`` (0 is padding) and ``offset``; outputs are ``logits``."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = DIM
        self.words = nn.Embedding(WORDS, DIM)
        self.blocks = nn.ModuleDict({name: nn.Linear(DIM, DIM) for name in ("first", "second")})
        self.head = nn.Linear(DIM, CLASSES)

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        return Tokens(self.words(inputs["words"]), inputs["words"] == 0, inputs["offset"])

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        values = tokens.values
        for block in list(self.blocks.values())[start:stop]:
            values = values + torch.tanh(block(values))
        return tokens._replace(values=values)

    def decode(self, tokens: Tokens) -> dict[str, Tensor]:
        kept = tokens.values.masked_fill(tokens.padding[..., None], 0)
        return {"logits": self.head(kept.sum(1)) + tokens.context[:, None]}

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.decode(self.run(self.embed(inputs), 0, len(self.blocks)))


def toy_inputs() -> dict[str, Tensor]:
    """Two sentences, the second with two words of padding."""
    return {"words": torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), "offset": torch.tensor([0.0, 1.0])}
