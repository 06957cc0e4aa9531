"""VoteNet (Qi et al., ICCV 2019): proposals of objects in a cloud, in plain torch.

    points -> set abstraction, 4 times -> interpolated back, twice -> seeds
    seeds -> each votes for the middle of its object -> votes in balls around some -> proposals

Set abstraction takes farthest points as centres, the points in a ball around each, and the largest
of what a small network says of them. Farthest points of farthest points are the first of them, so
they are chosen once, for the largest set. With the published widths there are 642,112 parameters
in the backbone, 199,171 in the votes and 112,481 in the proposals.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from pydantic import Field, PositiveFloat, PositiveInt, Strict
from torch import Tensor, nn
from torch.nn.functional import normalize

from rectify.data.points import farthest_points, interpolated, points_within, taken
from rectify.data.situations import KINDS
from rectify.typed import Closed

LEVELS = 4
Counts = Annotated[
    tuple[PositiveInt, ...], Strict(False), Field(min_length=LEVELS, max_length=LEVELS)
]
Lengths = Annotated[
    tuple[PositiveFloat, ...], Strict(False), Field(min_length=LEVELS, max_length=LEVELS)
]
SAID = {
    "objectness": 2, "centres": 3, "heading_scores": 1, "heading": 1, "size_scores": len(KINDS),
    "relative_sizes": 3 * len(KINDS), "kinds": len(KINDS),
}  # fmt: skip
"""What is said of a proposal, in this order, and by how many numbers."""


class DetectorSizes(Closed, strict=True):
    """``overrides`` of a VoteNet."""

    width: PositiveInt = 64
    """Of the first layer; the others are two and four times as wide."""
    sets: Counts = (2048, 1024, 512, 256)
    """Centres of each set abstraction; the second ones become seeds."""
    radii: Lengths = (0.2, 0.4, 0.8, 1.2)
    """Metres."""
    group_sizes: Counts = (64, 32, 16, 16)
    """Points of a ball."""
    proposals: PositiveInt = 256
    vote_radius: PositiveFloat = 0.3
    vote_group: PositiveInt = 16


class VoteNet(nn.Module):
    """From points to proposals.

    Args:
        sizes: Its own.
        features: What is known of a point besides its place.
    """

    def __init__(self, sizes: DetectorSizes, features: int):
        super().__init__()
        once, twice, four = sizes.width, 2 * sizes.width, 4 * sizes.width
        self.sets, self.proposals = sizes.sets, sizes.proposals
        self.dim = twice
        widths = [(features, once, once, twice), (twice, twice, twice, four)]
        widths += 2 * [(four, twice, twice, four)]
        self.abstractions = nn.ModuleList(
            SetAbstraction(radius, size, own)
            for radius, size, own in zip(sizes.radii, sizes.group_sizes, widths, strict=True)
        )
        self.back = nn.ModuleList(PointNetwork((2 * four, four, four)) for _ in range(2))
        self.voter = PointNetwork((four, four, four), bias=True)
        self.vote = nn.Linear(four, 3 + four)
        self.gather = SetAbstraction(sizes.vote_radius, sizes.vote_group, (four, *3 * (twice,)))
        self.judge = PointNetwork((twice, twice, twice))
        self.verdict = nn.Linear(twice, sum(SAID.values()))

    def forward(
        self, points: Float[Tensor, "batch points 3"], features: Float[Tensor, "batch points own"]
    ) -> tuple[Float[Tensor, "batch proposals dim"], dict[str, Tensor]]:
        """Return the features of the proposals, and all that is said of seeds and proposals."""
        order = farthest_points(points, self.sets[0])
        levels = [(points, features)]
        for count, abstraction in zip(self.sets, self.abstractions, strict=True):
            known = levels[-1][0]
            centres = taken(points, order[:, :count])
            levels.append((centres, abstraction(known, levels[-1][1], centres)))
        places, values = levels[-1]
        for network, (finer, own) in zip(self.back, (levels[3], levels[2]), strict=True):
            values = network(torch.cat([interpolated(values, places, finer), own], 2))
            places = finer
        offsets = self.vote(self.voter(values))
        votes = places + offsets[..., :3]
        said = {"seeds": places, "seed_numbers": order[:, : self.sets[1]], "votes": votes}
        chosen = farthest_points(votes.detach(), self.proposals)
        around = taken(votes, chosen)
        found = self.gather(votes, normalize(values + offsets[..., 3:], dim=2), around)
        return found, {**said, "proposals": around, **self._said(found, around)}

    def _said(
        self,
        found: Float[Tensor, "batch proposals dim"],
        around: Float[Tensor, "batch proposals 3"],
    ) -> dict[str, Tensor]:
        """Return what is said of the proposals, by name."""
        parts = self.verdict(self.judge(found)).split(list(SAID.values()), 2)
        said = dict(zip(SAID, parts, strict=True))
        said["centres"] = around + said["centres"]
        said["heading"] = said["heading"][..., 0]
        said["relative_sizes"] = said["relative_sizes"].unflatten(2, (len(KINDS), 3))
        return said


class PointNetwork(nn.Module):
    """Linear, norm over the batch, ReLU, for each width: the same for every point."""

    def __init__(self, widths: Sequence[int], bias: bool = False):
        super().__init__()
        pairs = list(pairwise(widths))
        self.linears = nn.ModuleList(nn.Linear(*pair, bias=bias) for pair in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _, width in pairs)

    def forward(self, values: Float[Tensor, "*points channels"]) -> Float[Tensor, "*points out"]:
        rows = values.flatten(0, -2)
        for linear, norm in zip(self.linears, self.norms, strict=True):
            rows = norm(linear(rows)).relu()
        return rows.unflatten(0, values.shape[:-1])


class SetAbstraction(nn.Module):
    """The largest of what a network says of the points in a ball around each centre.

    Args:
        radius: Of the ball; places in it are divided by it.
        size: Points of a ball.
        widths: Of what is known of a point, and of the network's layers.
    """

    def __init__(self, radius: float, size: int, widths: Sequence[int]):
        super().__init__()
        self.radius, self.size = radius, size
        self.network = PointNetwork((3 + widths[0], *widths[1:]))

    def forward(
        self,
        points: Float[Tensor, "batch points 3"],
        features: Float[Tensor, "batch points own"],
        centres: Float[Tensor, "batch centres 3"],
    ) -> Float[Tensor, "batch centres out"]:
        near: Int64[Tensor, "batch centres size"] = points_within(
            points, centres, self.radius, self.size
        )
        local = (taken(points, near) - centres[:, :, None]) / self.radius
        return self.network(torch.cat([local, taken(features, near)], 3)).amax(2)
