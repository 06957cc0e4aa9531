"""What VectorNet and mmTransformer share as trunks: agents and lanes as tokens, and one decoder."""

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectify.data.forecasts import FUTURE, OBSERVED
from rectify.trunks.trunk import Tokens, permuted_
from rectify.typed import Closed, parse


class Forecaster(nn.Module):
    """A trunk of motion forecasting: see ``rectify.trunks.trunk``.

    Attributes:
        sizes: Model of its ``overrides``.
        flat: Width of an agent or a lane as one token.
        decoder: From tokens to forecasts.
    """

    sizes: ClassVar[type[Closed]]
    flat: int
    decoder: nn.Module

    @classmethod
    def of(
        cls,
        overrides: Mapping[str, object],
        observed: int = OBSERVED,
        future: int = FUTURE,
        agents: int | None = None,
    ) -> "Forecaster":
        """Return a model with random weights.

        Args:
            overrides: Of ``sizes``.
            observed: Steps that it sees.
            future: Steps that it forecasts.
            agents: For how many agents of a scene, the scored one first; all, if none is given.

        Raises:
            ValueError: If a size is unknown or cannot be right.
        """
        sizes = parse(cls.sizes, dict(overrides), "visions.overrides")
        return cls(sizes, observed, future, agents)

    def lines(
        self,
        agents: Float[Tensor, "batch agents steps features"],
        lanes: Float[Tensor, "batch lanes pieces others"],
    ) -> Float[Tensor, "batch lines flat"]:
        """Return each agent and lane as one token, agents before lanes."""
        return torch.cat([padded_to(self.flat, one.flatten(2)) for one in (agents, lanes)], 1)

    def decode(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return what ``decoder`` does."""
        return self.decoder(tokens)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.decode(self.run(self.embed(inputs), 0, len(self.blocks)))

    def second_head(self, generator: torch.Generator) -> nn.Module:
        """Return another decoder, of the same distribution as this trunk's."""
        return permuted_(copy.deepcopy(self.decoder), generator)


def padded_to(width: int, values: Float[Tensor, "*batch own"]) -> Float[Tensor, "*batch width"]:
    """Return values with zeros behind them."""
    return nn.functional.pad(values, (0, width - values.shape[-1]))
