"""mmTransformer (Liu et al., CVPR 2021), with which Pang et al. forecast motion.

    an agent's moves -> a transformer of its own, asked by six queries -> its six proposals
        -> they attend to the lanes -> an agent's token -> tokens of agents attend to each other
        -> with each proposal to a trajectory and its score

Blocks are these three steps: motion (0), lanes (1), social (2). Tokens in front of the first are
moves and lanes, flat; between the first two an agent's token is its proposals end to end; behind
the second it is one of the model's width, as a lane's is. ``end``, where Pang et al. insert, is in
front of the decoder: the agents' tokens go on into it. Which tokens they took is not printed: with
``tokens: proposals`` it is those that the decoder takes, an agent's token and one of its proposals
end to end, as many of each agent as it has proposals, and no lanes; alone, the model is the same.
With the published sizes there are 2,208,989 parameters: the released model's 2,607,197 without a
decoder and a linear that it never calls. It differs from that in five things: the scene's frame is
that of ``rectify.data.forecasts``; a lane's flags count from 0; agents with gaps in their track are
kept; a displacement from a step that was not seen is 0; and scores are before softmax.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rectify.data.forecasts import FLAGS, POINTS
from rectify.trunks.forecaster import Forecaster, padded_to
from rectify.trunks.trunk import Tokens
from rectify.typed import Closed

MOVE, PIECE = 4, 4 + FLAGS
"""Features of an agent's move: displacement, time, whether seen; of a lane's piece."""
PIECES = POINTS - 1


class Sizes(Closed, strict=True):
    """``overrides`` of an mmTransformer."""

    dim: PositiveInt = 128
    """Width of all tokens."""
    heads: PositiveInt = 2
    layers: PositiveInt = 2
    """Of each encoder and decoder."""
    lane_width: PositiveInt = 32
    """Of the layers that take a lane's pieces together."""
    modes: PositiveInt = 6
    """Trajectories of an agent."""
    unit: PositiveFloat = 1.0
    """Metres that are 1 in places, those of agents and of lanes; published: 1. Moves are in metres:
    in a step, an agent moves about one."""
    tokens: Literal["agents+lanes", "proposals"] = "agents+lanes"
    """What is in front of the decoder."""

    @model_validator(mode="after")
    def _has_heads_of_equal_width(self) -> "Sizes":
        if self.dim % (2 * self.heads):
            raise ValueError(
                f"dim must be a multiple of twice the heads ({self.heads}), got {self.dim}. Change "
                "one of them."
            )
        return self


class Place(NamedTuple):
    """What blocks and decoder need besides the tokens."""

    centres: Float[Tensor, "batch agents 2"]
    """Last observed positions."""
    no_agent: Bool[Tensor, "batch agents"]
    no_lane: Bool[Tensor, "batch lanes"]
    where: Float[Tensor, "batch agents half"] | None = None
    """Features of the positions, from the first block on."""
    proposals: Float[Tensor, "batch agents modes dim"] | None = None
    """From the second block on."""


class MmTransformer(Forecaster):
    """mmTransformer as a trunk: see ``rectify.trunks.trunk``."""

    sizes = Sizes

    def __init__(self, sizes: Sizes, observed: int, future: int, agents: int | None):
        super().__init__()
        self.unit, self.has_proposals = sizes.unit, sizes.tokens == "proposals"
        self.dim = 2 * sizes.dim if self.has_proposals else sizes.dim
        self.flat = max((observed - 1) * MOVE, PIECES * PIECE)
        self.between = max(sizes.modes * sizes.dim, self.flat)
        self.widths = (self.flat, self.between, sizes.dim, self.dim)
        self.motion = Motion(sizes, observed - 1, self.between)
        self.lanes = LanesAndProposals(sizes)
        self.social = Social(sizes)
        self.decoder = Decoder(sizes, future, agents)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and not name.startswith("lanes.pieces."):
                nn.init.xavier_uniform_(parameter)
        nn.init.orthogonal_(self.motion.queries.weight)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """Motion, lanes, and agents among each other."""
        return {"0": self.motion, "1": self.lanes, "2": self.social}

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return moves and lanes as tokens, agents before lanes.

        Args:
            inputs: As ``rectify.data.forecasts.ForecastSet.batch`` has them, observed steps alone.
        """
        agents = moves_of(inputs["tracks"], inputs["seen"])
        lanes = pieces_of(inputs["lanes"] / self.unit, inputs["flags"])
        padding = torch.cat([inputs["no_agent"], inputs["no_lane"]], 1)
        centres = inputs["tracks"][:, :, -1]
        place = Place(centres, inputs["no_agent"], inputs["no_lane"])
        return Tokens(self.lines(agents, lanes), padding, place)

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        place = tokens.context
        if start <= 0 < stop:
            values, where = self.motion(tokens.values, place.centres / self.unit)
            place = place._replace(where=where)
            tokens = tokens._replace(values=values, context=place)
        if start <= 1 < stop:
            values, proposals = self.lanes(tokens.values, place.where, place.no_lane)
            place = place._replace(proposals=proposals)
            tokens = tokens._replace(values=values, context=place)
        if start <= 2 < stop:
            tokens = tokens._replace(values=self.social(tokens.values, place.no_agent))
            tokens = with_proposals(tokens) if self.has_proposals else tokens
        return tokens


def with_proposals(tokens: Tokens) -> Tokens:
    """Return, in place of agents and lanes, each agent's token with each of its proposals."""
    proposals, no_agent = tokens.context.proposals, tokens.context.no_agent
    agents = tokens.values[:, : no_agent.shape[1], None].expand_as(proposals)
    both = torch.cat([agents, proposals], 3).flatten(1, 2)
    padding = no_agent.repeat_interleave(proposals.shape[2], 1)
    return tokens._replace(values=both, padding=padding)


def moves_of(
    tracks: Float[Tensor, "batch agents steps 2"], seen: Bool[Tensor, "batch agents steps"]
) -> Float[Tensor, "batch agents moves 4"]:
    """Return each move between two observed steps: displacement, mean time (s), whether seen."""
    both = (seen[:, :, 1:] & seen[:, :, :-1]).to(tracks)
    moved = (tracks[:, :, 1:] - tracks[:, :, :-1]) * both[..., None]
    time = (torch.arange(both.shape[2], device=tracks.device).to(tracks) + 0.5) * 0.1
    return torch.cat([moved, time[:, None].expand(*both.shape, 1), both[..., None]], 3)


def pieces_of(
    points: Float[Tensor, "batch lanes points 2"], flags: Float[Tensor, "batch lanes 3"]
) -> Float[Tensor, "batch lanes pieces 7"]:
    """Return the pieces between a lane's points: both ends, and the lane's flags."""
    own = flags[:, :, None].expand(*points.shape[:2], points.shape[2] - 1, FLAGS)
    return torch.cat([points[:, :, :-1], points[:, :, 1:], own], 3)


def fused(features: int, dim: int) -> nn.Sequential:
    """Return two linears with a norm between them."""
    return nn.Sequential(
        nn.Linear(features, dim), nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim)
    )


class Attention(nn.Module):
    """Attention with some heads; of what is padded nothing is heard."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(
        self,
        values: Float[Tensor, "*batch tokens dim"],
        memory: Float[Tensor, "*#batch others dim"],
        padding: Bool[Tensor, "*#batch others"] | None,
    ) -> Float[Tensor, "*batch tokens dim"]:
        shape = values.shape
        if memory.shape[:-2] != shape[:-2]:  # a scene's agents have one memory: ask it together
            values, memory = values.flatten(1, 2), memory[:, 0]
            padding = None if padding is None else padding[:, 0]
        query, key, heard = (
            linear(given).unflatten(-1, (self.heads, -1)).transpose(-3, -2).flatten(0, -4)
            for linear, given in (
                (self.query, values),
                (self.key, memory),
                (self.value, memory),
            )
        )
        mask = None
        if padding is not None:
            hidden = padding.flatten(0, -2)[:, None, None]  # (batch, 1, 1, others)
            mask = query.new_zeros(hidden.shape).masked_fill(hidden, torch.finfo(query.dtype).min)
            heard = heard.masked_fill(hidden.mT, 0)
        mixed = scaled_dot_product_attention(query, key, heard, mask)
        return self.out(mixed.transpose(1, 2).flatten(2).view(shape))


class Layer(nn.Module):
    """Tokens attend to each other, to a memory if there is one, and go through two linears."""

    def __init__(self, sizes: Sizes, has_memory: bool):
        super().__init__()
        dim = sizes.dim
        self.own_norm, self.own = nn.LayerNorm(dim), Attention(dim, sizes.heads)
        if has_memory:
            self.memory_norm, self.memory = nn.LayerNorm(dim), Attention(dim, sizes.heads)
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))

    def forward(
        self,
        values: Float[Tensor, "*batch tokens dim"],
        memory: Float[Tensor, "*#batch others dim"] | None,
        padding: Tensor | None,
    ) -> Float[Tensor, "*batch tokens dim"]:
        own = self.own_norm(values)
        values = values + self.own(own, own, padding if memory is None else None)
        if memory is not None:
            values = values + self.memory(self.memory_norm(values), memory, padding)
        return values + self.mlp(self.norm(values))


class Layers(nn.Module):
    """An encoder, or a decoder with a memory: layers, and a norm behind them.

    ``padding`` is that of the memory, or of the tokens where there is none.
    """

    def __init__(self, sizes: Sizes, has_memory: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(Layer(sizes, has_memory) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.dim)

    def forward(
        self,
        values: Float[Tensor, "*batch tokens dim"],
        memory: Float[Tensor, "*#batch others dim"] | None = None,
        padding: Tensor | None = None,
    ) -> Float[Tensor, "*batch tokens dim"]:
        for layer in self.layers:
            values = layer(values, memory, padding)
        return self.norm(values)


class Motion(nn.Module):
    """An agent's moves to its proposals, one for each query; agents know nothing of each other."""

    def __init__(self, sizes: Sizes, moves: int, width: int):
        super().__init__()
        dim, self.moves, self.width = sizes.dim, moves, width
        self.move = nn.Linear(MOVE, dim)
        self.encoder, self.decoder = Layers(sizes), Layers(sizes, has_memory=True)
        self.queries = nn.Embedding(sizes.modes, dim)
        half = dim // 2
        self.where = fused(2, half)
        self.joint = fused(dim + half, dim)
        self.register_buffer("waves", waves(moves, dim), persistent=False)

    def forward(
        self, values: Float[Tensor, "batch tokens flat"], centres: Float[Tensor, "batch agents 2"]
    ) -> tuple[Float[Tensor, "batch tokens between"], Float[Tensor, "batch agents half"]]:
        batch, agents, _ = centres.shape
        moves = values[:, :agents, : self.moves * MOVE].unflatten(2, (self.moves, MOVE))
        moves = self.move(moves) * self.move.out_features**0.5 + self.waves
        numbers = torch.arange(self.queries.num_embeddings, device=values.device)
        asked = self.queries(numbers.expand(batch, agents, -1))
        found = self.decoder(asked, self.encoder(moves))
        where = self.where(centres)
        beside = where[:, :, None].expand(*found.shape[:3], -1)
        proposals = self.joint(torch.cat([beside, found], 3)).flatten(2)
        both = [padded_to(self.width, one) for one in (proposals, values[:, agents:])]
        return torch.cat(both, 1), where


def waves(count: int, dim: int) -> Float[Tensor, "count dim"]:
    """Return sines and cosines of places, in turn (Vaswani et al., 2017)."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


class LanesAndProposals(nn.Module):
    """Lanes attend to each other, proposals to lanes; an agent's proposals become its token."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        dim, width = sizes.dim, sizes.lane_width
        self.modes, self.dim = sizes.modes, dim
        self.pieces = nn.ModuleList(
            nn.Sequential(nn.Linear(features, width), nn.LayerNorm(width), nn.ReLU())
            for features in (PIECE, 2 * width)
        )
        self.lane = nn.Linear(2 * width, dim)
        self.encoder, self.decoder = Layers(sizes), Layers(sizes, has_memory=True)
        self.together = fused(sizes.modes * dim, dim)
        self.joint = fused(dim + dim // 2, dim)

    def forward(
        self,
        values: Float[Tensor, "batch tokens between"],
        where: Float[Tensor, "batch agents half"],
        no_lane: Bool[Tensor, "batch lanes"],
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch agents modes dim"]]:
        agents = where.shape[1]
        pieces = values[:, agents:, : PIECES * PIECE].unflatten(2, (PIECES, PIECE))
        for layer in self.pieces:
            pieces = layer(pieces)
            pieces = torch.cat([pieces, pieces.amax(2, keepdim=True).expand_as(pieces)], 3)
        lanes = self.lane(pieces.amax(2)) * self.dim**0.5
        memory = self.encoder(lanes, padding=no_lane)
        proposals = values[:, :agents, : self.modes * self.dim].unflatten(2, (self.modes, -1))
        proposals = self.decoder(proposals, memory[:, None], no_lane[:, None])
        token = self.joint(torch.cat([where, self.together(proposals.flatten(2))], 2))
        return torch.cat([token, memory], 1), proposals


class Social(nn.Module):
    """Agents attend to each other; lanes stay as they are."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.encoder = Layers(sizes)

    def forward(
        self, values: Float[Tensor, "batch tokens dim"], no_agent: Bool[Tensor, "batch agents"]
    ) -> Float[Tensor, "batch tokens dim"]:
        agents = no_agent.shape[1]
        mixed = self.encoder(values[:, :agents], padding=no_agent)
        return torch.cat([mixed, values[:, agents:]], 1)


class Decoder(nn.Module):
    """An agent's token and each of its proposals to a trajectory and its score."""

    def __init__(self, sizes: Sizes, future: int, agents: int | None):
        super().__init__()
        dim, self.future, self.modes, self.agents = sizes.dim, future, sizes.modes, agents
        self.has_proposals = sizes.tokens == "proposals"
        self.steps = nn.Sequential(
            nn.Linear(2 * dim, 2 * dim), nn.LayerNorm(2 * dim), nn.ReLU(),
            nn.Linear(2 * dim, dim), nn.Linear(dim, 2 * future),
        )  # fmt: skip
        self.score = nn.Sequential(
            nn.Linear(2 * dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 2 * dim),
            nn.Linear(2 * dim, dim), nn.Linear(dim, 1),
        )  # fmt: skip

    def forward(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return, of the first ``self.agents`` or of all, in the scene's frame of metres:

        ``trajectories`` (batch, agents, modes, steps, 2), and their ``scores`` before softmax
        (batch, agents, modes).
        """
        centres = tokens.context.centres
        both = (tokens if self.has_proposals else with_proposals(tokens)).values
        both = both.unflatten(1, (centres.shape[1], self.modes))[:, : self.agents]
        steps = self.steps(both).unflatten(3, (self.future, 2))
        ways = steps.cumsum(3) + centres[:, : self.agents, None, None]
        return {"trajectories": ways, "scores": self.score(both)[..., 0]}
