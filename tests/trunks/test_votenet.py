"""VoteNet: its counts, and the whole of it written out for one cloud, point by point."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, linear

from rectify.data.points import farthest_points, taken
from rectify.runtime import generator
from rectify.trunks.votenet import SAID, DetectorSizes, VoteNet

SIZES = DetectorSizes(
    width=4,
    sets=(14, 10, 7, 5),
    radii=(0.8, 1.2, 1.6, 2.0),
    group_sizes=(5, 4, 3, 3),
    proposals=6,
    vote_radius=1.0,
    vote_group=4,
)
FEATURES = 2
WEIGHTS = dict[str, Tensor]


def count(*parts: nn.Module) -> int:
    return sum(one.numel() for part in parts for one in part.parameters())


def make() -> VoteNet:
    torch.manual_seed(0)
    model = VoteNet(SIZES, FEATURES).double().eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():  # means of 0 and variances of 1 hide mistakes
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor), alpha=0.3)
    return model


def clouds() -> tuple[Tensor, Tensor]:
    draws = generator(3)
    points = torch.randn(2, 20, 3, generator=draws, dtype=torch.float64)
    return points, torch.randn(2, 20, FEATURES, generator=draws, dtype=torch.float64)


def test_the_published_widths_have_the_published_parameters() -> None:
    with torch.device("meta"):
        model = VoteNet(DetectorSizes(), features=4)
    assert count(model.abstractions, model.back) == 642_112
    assert count(model.voter, model.vote) == 199_171
    assert count(model.gather, model.judge, model.verdict) == 112_481
    assert sum(SAID.values()) == 97


def network(row: Tensor, w: WEIGHTS, name: str) -> Tensor:
    """A row ``(channels,)`` through linears, norms and ReLUs."""
    layer = 0
    while f"{name}.linears.{layer}.weight" in w:
        row = linear(row, w[f"{name}.linears.{layer}.weight"],
                     w.get(f"{name}.linears.{layer}.bias"))  # fmt: skip
        norm = f"{name}.norms.{layer}"
        known = [w[f"{norm}.{one}"] for one in ("running_mean", "running_var", "weight", "bias")]
        row = batch_norm(row[None], *known)[0].relu()
        layer += 1
    return row


def abstraction(
    points: Tensor, features: Tensor, centres: Tensor, radius: float, size: int, w: WEIGHTS,
    name: str,
) -> Tensor:  # fmt: skip
    made = []
    for centre in centres:
        near = [n for n, point in enumerate(points) if (point - centre).norm() < radius]
        ball = (near + [near[0]] * size)[:size]
        rows = [torch.cat([(points[n] - centre) / radius, features[n]]) for n in ball]
        made.append(torch.stack([network(row, w, f"{name}.network") for row in rows]).amax(0))
    return torch.stack(made)


def back(
    coarse: Tensor, values: Tensor, fine: Tensor, own: Tensor, w: WEIGHTS, name: str
) -> Tensor:
    made = []
    for point, known in zip(fine, own, strict=True):
        gaps = (coarse - point).norm(dim=1)
        near = gaps.argsort()[:3]
        weights = 1 / (gaps[near] + 1e-8)
        mixed = (weights[:, None] * values[near]).sum(0) / weights.sum()
        made.append(network(torch.cat([mixed, known]), w, name))
    return torch.stack(made)


def written_out(model: VoteNet, points: Tensor, features: Tensor) -> tuple[Tensor, WEIGHTS]:
    """One cloud; each level's centres are chosen among those of the level before."""
    w, levels = model.state_dict(), [(points, features)]
    for level, (many, radius, size) in enumerate(
        zip(SIZES.sets, SIZES.radii, SIZES.group_sizes, strict=True)
    ):
        known, values = levels[-1]
        centres = taken(known[None], farthest_points(known[None], many))[0]
        name = f"abstractions.{level}"
        levels.append((centres, abstraction(known, values, centres, radius, size, w, name)))
    values = back(*levels[4], *levels[3], w, "back.0")
    seeds = levels[2][0]
    values = back(levels[3][0], values, seeds, levels[2][1], w, "back.1")
    votes, voted = [], []
    for place, value in zip(seeds, values, strict=True):
        offset = linear(network(value, w, "voter"), w["vote.weight"], w["vote.bias"])
        votes.append(place + offset[:3])
        whole = value + offset[3:]
        voted.append(whole / whole.norm())
    votes, voted = torch.stack(votes), torch.stack(voted)
    around = taken(votes[None], farthest_points(votes[None], SIZES.proposals))[0]
    size = (SIZES.vote_radius, SIZES.vote_group)
    found = abstraction(votes, voted, around, *size, w, "gather")
    verdicts = [
        linear(network(row, w, "judge"), w["verdict.weight"], w["verdict.bias"]) for row in found
    ]
    said = dict(zip(SAID, torch.stack(verdicts).split(list(SAID.values()), 1), strict=True))
    said["centres"] = said["centres"] + around
    return found, {**said, "votes": votes, "seeds": seeds, "proposals": around}


def test_it_is_what_is_written_out_for_each_cloud() -> None:
    model, (points, features) = make(), clouds()
    found, said = model(points, features)
    assert found.shape == (2, 6, model.dim) == (2, 6, 8)
    for cloud in range(2):
        expected, own = written_out(model, points[cloud], features[cloud])
        torch.testing.assert_close(found[cloud], expected)
        for name, values in own.items():
            torch.testing.assert_close(said[name][cloud].flatten(), values.flatten())
        chosen = points[cloud][said["seed_numbers"][cloud]]
        assert torch.equal(chosen, said["seeds"][cloud])


def test_every_parameter_that_is_used_learns() -> None:
    model, (points, features) = make().train(), clouds()
    found, said = model(points, features)
    (found.sum() + sum(one.sum() for one in said.values() if one.requires_grad)).backward()
    assert all(one.grad is not None for one in model.parameters())
