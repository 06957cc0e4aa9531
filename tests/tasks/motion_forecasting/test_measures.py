"""Losses of scenes and the benchmark's metrics, each against loops over numbers."""

import math

import pytest
import torch
from torch import Tensor

from rectify.runtime import generator
from rectify.tasks.motion_forecasting import measures

BATCH, AGENTS, MODES, STEPS = 5, 3, 4, 30


def made(agents: int = AGENTS, modes: int = MODES) -> dict[str, Tensor]:
    draws = generator(0, "forecasts")
    return {
        "trajectories": torch.randn(BATCH, agents, modes, STEPS, 2, generator=draws) * 2,
        "scores": torch.randn(BATCH, agents, modes, generator=draws),
        "single": torch.randn(BATCH, agents, STEPS, 2, generator=draws) * 2,
    }


def truth() -> tuple[Tensor, Tensor]:
    draws = generator(1, "truth")
    future = torch.randn(BATCH, AGENTS, STEPS, 2, generator=draws)
    seen = torch.rand(BATCH, AGENTS, STEPS, generator=draws) < 0.7
    seen[0, 1] = False  # an agent that was never seen again
    seen[1, 2, -5:] = False
    seen[2] = False
    return future * seen[..., None], seen


def smooth(value: float) -> float:
    return 0.5 * value**2 if abs(value) < 1 else abs(value) - 0.5


def loss_of(outputs: dict, future: Tensor, seen: Tensor, scene: int, agents: range) -> float:
    """One scene's loss, in plain numbers."""
    each = []
    for agent in agents:
        steps = [t for t in range(STEPS) if seen[scene, agent, t]]
        if not steps:
            continue
        goal = future[scene, agent].tolist()
        found = outputs["trajectories"][scene, agent].tolist()
        ends = [math.dist(mode[steps[-1]], goal[steps[-1]]) for mode in found]
        best = ends.index(min(ends))
        total = 0.0
        for way in (found[best], outputs["single"][scene, agent].tolist()):
            total += sum(smooth(way[t][axis] - goal[t][axis]) for t in steps for axis in (0, 1))
        scores = outputs["scores"][scene, agent].tolist()
        each.append(total + math.log(sum(map(math.exp, scores))) - scores[best])
    return sum(each) / len(each) if each else 0.0


@pytest.mark.parametrize("focal", [False, True])
def test_the_loss_of_a_scene_is_that_of_its_own_agents(focal: bool) -> None:
    outputs, (future, seen) = made(), truth()
    found = measures.losses(outputs, future, seen, focal)
    agents = range(1 if focal else AGENTS)
    expected = [loss_of(outputs, future, seen, scene, agents) for scene in range(BATCH)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found[2] == 0  # nobody was seen again


def loss_of_proposals(outputs: dict, future: Tensor, seen: Tensor, scene: int) -> float:
    """One scene's loss of mmTransformer, in plain numbers."""
    each = []
    for agent in range(AGENTS):
        steps = [t for t in range(STEPS) if seen[scene, agent, t]]
        if not steps:
            continue
        goal = future[scene, agent].tolist()
        found = outputs["trajectories"][scene, agent].tolist()
        ends = [math.dist(mode[steps[-1]], goal[steps[-1]]) for mode in found]
        way = found[ends.index(min(ends))]
        total = 0.0
        for step in steps:
            if step > 0 and step - 1 not in steps:
                continue
            for axis in (0, 1):
                ours = way[step][axis] - (way[step - 1][axis] if step else 0)
                theirs = goal[step][axis] - (goal[step - 1][axis] if step else 0)
                total += smooth(ours - theirs)
        wanted = [math.exp(-end) / sum(math.exp(-one) for one in ends) for end in ends]
        scores = outputs["scores"][scene, agent].tolist()
        given = [math.exp(one) / sum(map(math.exp, scores)) for one in scores]
        each.append(
            total + sum(p * (math.log(p) - math.log(q)) for p, q in zip(wanted, given, strict=True))
        )
    return sum(each) / len(each) if each else 0.0


def test_without_a_single_trajectory_the_loss_is_that_of_steps_and_of_all_ends() -> None:
    outputs, (future, seen) = made(), truth()
    del outputs["single"]
    found = measures.losses(outputs, future, seen, False)
    expected = [loss_of_proposals(outputs, future, seen, scene) for scene in range(BATCH)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    assert found[2] == 0


def by_hand(outputs: dict, goal: Tensor, scene: int, k: int) -> dict[str, float]:
    """The metrics of one scene as the benchmark's API computes them."""
    scores = outputs["scores"][scene, 0].tolist()
    order = sorted(range(len(scores)), key=lambda mode: -scores[mode])[:k]
    shares = [math.exp(scores[mode]) for mode in order]
    ways = [outputs["trajectories"][scene, 0, mode].tolist() for mode in order]
    ends = [math.dist(way[-1], goal[scene, -1].tolist()) for way in ways]
    best = ends.index(min(ends))
    apart = [math.dist(a, b) for a, b in zip(ways[best], goal[scene].tolist(), strict=True)]
    return {
        "min_ade": sum(apart) / STEPS,
        "min_fde": ends[best],
        "miss_rate": float(ends[best] > 2.0),
        "brier_min_fde": ends[best] + (1 - shares[best] / sum(shares)) ** 2,
    }


def test_one_trajectory_alone_has_no_brier_score() -> None:
    """It would be minFDE a second time, in tables and in their count of tests."""
    outputs, goal = made(), truth()[0][:, 0]
    sure = [by_hand(outputs, goal, scene, 1) for scene in range(BATCH)]
    assert all(one["brier_min_fde"] == one["min_fde"] for one in sure)
    assert set(measures.scores(outputs, goal, 1)) == {"min_ade@1", "min_fde@1", "miss_rate@1"}


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_metrics_are_the_benchmarks(k: int) -> None:
    """With k above the four modes all count; with ties the first of the equally likely does."""
    outputs, goal = made(), truth()[0][:, 0]
    outputs["scores"][1, 0] = torch.tensor([0.5, 2.0, 0.5, 0.5])
    found = measures.scores(outputs, goal, k)
    for scene in range(BATCH):
        for name, value in by_hand(outputs, goal, scene, k).items():
            if name == "brier_min_fde" and k == 1:
                continue
            assert found[f"{name}@{k}"][scene].item() == pytest.approx(value, rel=1e-5), name


def test_min_ade_is_not_the_least_of_all_but_that_of_the_trajectory_that_ends_closest() -> None:
    goal = torch.zeros(1, STEPS, 2)
    ways = torch.zeros(1, 1, 2, STEPS, 2)
    ways[0, 0, 0, :, 0] = 5.0
    ways[0, 0, 0, -1, 0] = 1.0  # far, and ends closest
    ways[0, 0, 1, -1, 0] = 2.0  # on it, but for its end: at exactly 2 m, which is no miss
    outputs = {"trajectories": ways, "scores": torch.tensor([[[0.0, 1.0]]])}
    both, one = (measures.scores(outputs, goal, k) for k in (2, 1))
    assert both["min_ade@2"].item() == pytest.approx((29 * 5 + 1) / 30)
    least = measures.scores(outputs, goal, 2, "least")  # as Argoverse 2 has it
    assert least["min_ade@2"].item() == pytest.approx(2 / 30)
    assert {name: one for name, one in least.items() if name != "min_ade@2"} == {
        name: one for name, one in both.items() if name != "min_ade@2"
    }
    assert one["min_ade@1"].item() == pytest.approx(2 / 30)
    assert one["miss_rate@1"].item() == 0
