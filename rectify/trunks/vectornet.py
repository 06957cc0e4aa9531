"""VectorNet (Gao et al., CVPR 2020) as Pang et al. train it for Argoverse (IROS 2023).

    steps of agents, pieces of lanes -> a subgraph for each polyline -> a token
        -> all tokens attend to all -> agents' tokens -> six trajectories and their scores

Blocks are the two subgraphs (block 0) and the global graph (block 1). The tokens in front of the
subgraphs are whole polylines, flat; ``middle`` is in front of the global graph, and ``end``, where
Pang et al. insert, in front of the decoder. With the published sizes there are 1,780,933
parameters. It differs from their code in three things: a displacement from a step that was not
seen is 0, not a jump from the origin; steps without an agent are no part of a subgraph's maximum;
and trajectories are not sorted, which the metrics do.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from rectify.data.forecasts import FLAGS, POINTS
from rectify.trunks.forecaster import Forecaster
from rectify.trunks.trunk import Tokens
from rectify.typed import Closed

AGENT, LANE = 6, 4 + FLAGS
"""Features of an agent's step: place, displacement, whether seen, time; of a lane's piece."""
PIECES = POINTS - 1


class Sizes(Closed, strict=True):
    """``overrides`` of a VectorNet."""

    width: PositiveInt = 32
    """Of a subgraph's first layer; each further one is twice as wide."""
    layers: PositiveInt = 3
    """Of a subgraph."""
    modes: PositiveInt = 6
    """Trajectories of an agent."""
    unit: PositiveFloat = 1.0
    """Metres that are 1 in features and in what the decoder's linears return; published: 1."""


class Place(NamedTuple):
    """What blocks and decoder need besides the tokens."""

    seen: Bool[Tensor, "batch agents steps"]
    """Steps of the unbroken track up to now."""
    centres: Float[Tensor, "batch agents 2"]
    """Last observed positions."""


class VectorNet(Forecaster):
    """VectorNet as a trunk: see ``rectify.trunks.trunk``."""

    sizes = Sizes

    def __init__(self, sizes: Sizes, observed: int, future: int, agents: int | None):
        super().__init__()
        self.dim = sizes.width * 2**sizes.layers
        self.flat = max((observed - 1) * AGENT, PIECES * LANE)  # width of a polyline as one token
        self.widths = (self.flat, self.dim, self.dim)
        self.subgraphs = Subgraphs(sizes)
        self.graph = GlobalGraph(self.dim)
        self.decoder = Decoder(self.dim, sizes, future, agents)
        self.unit = sizes.unit

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The subgraphs, and the global graph."""
        return {"0": self.subgraphs, "1": self.graph}

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:
        """Return polylines as tokens, agents before lanes.

        Args:
            inputs: As ``rectify.data.forecasts.ForecastSet.batch`` has them, observed steps alone.
        """
        agents, seen = steps_of(inputs["tracks"] / self.unit, inputs["seen"])
        lanes = pieces_of(inputs["lanes"] / self.unit, inputs["flags"])
        padding = torch.cat([inputs["no_agent"], inputs["no_lane"]], 1)
        centres = inputs["tracks"][:, :, -1]
        return Tokens(self.lines(agents, lanes), padding, Place(seen, centres))

    def run(self, tokens: Tokens, start: int, stop: int) -> Tokens:
        """Return the tokens after the blocks ``start`` ... ``stop - 1``."""
        if start <= 0 < stop:
            tokens = tokens._replace(values=self.subgraphs(tokens.values, tokens.context.seen))
        if start <= 1 < stop:
            tokens = tokens._replace(values=self.graph(tokens.values, tokens.padding))
        return tokens


def steps_of(
    tracks: Float[Tensor, "batch agents steps 2"], seen: Bool[Tensor, "batch agents steps"]
) -> tuple[Float[Tensor, "batch agents _ 6"], Bool[Tensor, "batch agents _"]]:
    """Return each observed step but the first as a vector, and which of them count.

    Those count that lead to the last observed step without a gap.
    """
    tail = seen.flip(2).long().cumprod(2).flip(2).bool()
    moved = (tracks[:, :, 1:] - tracks[:, :, :-1]) * tail[:, :, :-1, None]
    time = torch.arange(1, tracks.shape[2], device=tracks.device).to(tracks) * 0.1  # seconds
    counts = tail[:, :, 1:]
    vectors = torch.cat(
        [tracks[:, :, 1:], moved, torch.ones_like(moved[..., :1]),
         time[:, None].expand(*moved.shape[:3], 1)], 3,
    )  # fmt: skip
    return vectors * counts[..., None], counts


def pieces_of(
    points: Float[Tensor, "batch lanes points 2"], flags: Float[Tensor, "batch lanes 3"]
) -> Float[Tensor, "batch lanes _ 7"]:
    """Return the pieces between a lane's points: end, displacement, and the lane's flags."""
    moved = points[:, :, 1:] - points[:, :, :-1]
    own = flags[:, :, None].expand(*moved.shape[:3], FLAGS)
    return torch.cat([points[:, :, 1:], moved, own], 3)


class Subgraph(nn.Module):
    """Vectors of polylines to one token each: layers, each followed by the polyline's maximum."""

    def __init__(self, features: int, sizes: Sizes):
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in range(sizes.layers):
            width = sizes.width * 2**layer
            self.layers.append(
                nn.Sequential(
                    nn.Linear(features, width),
                    nn.LayerNorm(width),
                    nn.ReLU(),
                    nn.Linear(width, width),
                    nn.LayerNorm(width),
                    nn.ReLU(),
                )
            )
            features = 2 * width

    def forward(
        self,
        vectors: Float[Tensor, "batch lines vectors features"],
        counts: Bool[Tensor, "batch lines vectors"],
    ) -> Float[Tensor, "batch lines dim"]:
        counts, largest = counts[..., None].to(vectors), None
        for layer in self.layers:
            if largest is not None:
                vectors = torch.cat([vectors, largest.expand_as(vectors)], 3)
            vectors = layer(vectors) * counts  # never below 0, so 0 hides nothing
            largest = vectors.amax(2, keepdim=True)
        return torch.cat([largest, largest], 3)[:, :, 0]


class Subgraphs(nn.Module):
    """Flat polylines to tokens; agents and lanes have weights of their own."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.agents, self.lanes = Subgraph(AGENT, sizes), Subgraph(LANE, sizes)

    def forward(
        self, values: Float[Tensor, "batch lines flat"], seen: Bool[Tensor, "batch agents steps"]
    ) -> Float[Tensor, "batch lines dim"]:
        count, steps = seen.shape[1:]
        agents = values[:, :count, : steps * AGENT].unflatten(2, (steps, AGENT))
        lanes = values[:, count:, : PIECES * LANE].unflatten(2, (PIECES, LANE))
        whole = torch.ones(lanes.shape[:3], dtype=torch.bool, device=lanes.device)
        return torch.cat([self.agents(agents, seen), self.lanes(lanes, whole)], 1)


class GlobalGraph(nn.Module):
    """All tokens attend to all that are there, with one head; beside it, a linear."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.attended = nn.Sequential(
            nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )
        self.beside = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))

    def forward(
        self, values: Float[Tensor, "batch lines dim"], padding: Bool[Tensor, "batch lines"]
    ) -> Float[Tensor, "batch lines dim"]:
        scores = self.query(values) @ self.key(values).mT / values.shape[2] ** 0.5
        scores = scores.masked_fill(padding[:, None], torch.finfo(scores.dtype).min)
        there = self.value(values).masked_fill(padding[..., None], 0)
        return self.beside(values) + self.attended(scores.softmax(2).to(there) @ there)


class Residual(nn.Module):
    """Two linears, each with a norm, and what went in."""

    def __init__(self, dim: int):
        super().__init__()
        self.first, self.second = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.first_norm, self.second_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, values: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        inner = self.first_norm(self.first(values)).relu()
        return (self.second_norm(self.second(inner)) + values).relu()


class Decoder(nn.Module):
    """An agent's token to some trajectories, the score of each, and one more trajectory."""

    def __init__(self, dim: int, sizes: Sizes, future: int, agents: int | None):
        super().__init__()
        self.unit, self.future, self.agents = sizes.unit, future, agents

        def branch() -> nn.Sequential:
            return nn.Sequential(Residual(dim), nn.Linear(dim, 2 * future))

        self.modes = nn.ModuleList(branch() for _ in range(sizes.modes))
        self.single = branch()
        self.offset = nn.Sequential(
            nn.Linear(2, dim), nn.ReLU(), nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim),
            nn.ReLU(),
        )  # fmt: skip
        self.joint = nn.Sequential(
            nn.Linear(2 * dim, dim, bias=False), nn.LayerNorm(dim), nn.ReLU()
        )
        self.score = nn.Sequential(Residual(dim), nn.Linear(dim, 1))

    def forward(self, tokens: Tokens) -> dict[str, Tensor]:
        """Return, of the first ``self.agents`` or of all, in the scene's frame of metres:

        ``trajectories`` (batch, agents, modes, steps, 2), their ``scores`` before softmax (batch,
        agents, modes), and ``single``, one more trajectory (batch, agents, steps, 2).
        """
        centres = tokens.context.centres[:, : self.agents]
        agents = tokens.values[:, : centres.shape[1]]
        found = torch.stack([mode(agents) for mode in self.modes], 2).unflatten(3, (self.future, 2))
        found = self.unit * found + centres[:, :, None, None]
        single = (
            self.unit * self.single(agents).unflatten(2, (self.future, 2)) + centres[:, :, None]
        )
        offsets = self.offset((centres[:, :, None] - found[:, :, :, -1].detach()) / self.unit)
        both = torch.cat([offsets, agents[:, :, None].expand_as(offsets)], 3)
        scores = self.score(self.joint(both))[..., 0]
        return {"trajectories": found, "scores": scores, "single": single}
