"""Losses of the detector, the pose and the answer: written out for each sample, box by box."""

import math

import pytest
import torch
from torch import Tensor

from rectify.runtime import generator
from rectify.tasks.situated_question_answering.losses import losses

BATCH, SEEDS, PROPOSALS, BOXES, KINDS, ANSWERS = 3, 9, 7, 4, 18, 6
COUNTS = (4, 1, 0)
"""Boxes of each sample: the last room has none."""


@pytest.fixture
def found() -> dict[str, Tensor]:
    draws = generator(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(BATCH, *shape, generator=draws)

    return {
        "seeds": numbers(SEEDS, 3), "votes": numbers(SEEDS, 3),
        "seed_numbers": torch.randint(20, (BATCH, SEEDS), generator=draws),
        "proposals": 0.4 * numbers(PROPOSALS, 3), "centres": 0.4 * numbers(PROPOSALS, 3),
        "objectness": numbers(PROPOSALS, 2), "heading": 2 * numbers(PROPOSALS),
        "size_scores": numbers(PROPOSALS, KINDS), "kinds": numbers(PROPOSALS, KINDS),
        "relative_sizes": 2 * numbers(PROPOSALS, KINDS, 3),
        "answers": numbers(ANSWERS), "pose": numbers(7),
    }  # fmt: skip


@pytest.fixture
def batch() -> dict[str, Tensor]:
    draws = generator(1)
    there = torch.tensor([[1.0] * count + [0.0] * (BOXES - count) for count in COUNTS])
    centres = 0.4 * torch.randn(BATCH, BOXES, 3, generator=draws)
    return {
        "ways": torch.randn(BATCH, 20, 3, generator=draws),
        "has_way": torch.randint(2, (BATCH, 20), generator=draws).float(),
        "centres": centres * there[..., None], "has_box": there,
        "relative_sizes": torch.randn(BATCH, BOXES, 3, generator=draws),
        "kinds": torch.randint(KINDS, (BATCH, BOXES), generator=draws),
        "pose": torch.randn(BATCH, 7, generator=draws),
        "answers": torch.tensor([2, 0, 5]), "worths": torch.tensor([0.3, 1.0, 0.9]),
    }  # fmt: skip


def huber(error: float) -> float:
    return error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5


def choice(scores: Tensor, right: int) -> float:
    return -(scores.double().softmax(0)[right].log()).item()


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def written_out(f: dict[str, Tensor], b: dict[str, Tensor], n: int) -> dict[str, float]:
    """The terms of sample ``n``."""
    votes = []
    for seed in range(SEEDS):
        point = int(f["seed_numbers"][n, seed])
        if b["has_way"][n, point]:
            wanted = f["seeds"][n, seed] + b["ways"][n, point]
            votes.append((f["votes"][n, seed] - wanted).abs().sum().item())
    boxes = range(COUNTS[n])
    objectness, centres, headings, kinds, size_choices, sizes = [], [], [], [], [], []
    for one in range(PROPOSALS):
        gaps = [(f["proposals"][n, one] - b["centres"][n, box]).norm().item() for box in boxes]
        nearest = min(gaps, default=math.inf)
        distance = math.sqrt(nearest**2 + 1e-6)
        if distance < 0.3 or distance > 0.6:
            is_object = distance < 0.3
            weight = 0.8 if is_object else 0.2
            objectness.append(weight * choice(f["objectness"][n, one], int(is_object)))
        if distance < 0.3:
            own = gaps.index(nearest)
            kind = int(b["kinds"][n, own])
            centre = f["centres"][n, one]
            centres.append(min((centre - b["centres"][n, x]).square().sum().item() for x in boxes))
            headings.append(huber(f["heading"][n, one].item()))
            kinds.append(choice(f["kinds"][n, one], kind))
            size_choices.append(choice(f["size_scores"][n, one], kind))
            errors = f["relative_sizes"][n, one, kind] - b["relative_sizes"][n, own]
            sizes.append(mean([huber(error) for error in errors.tolist()]))
    reached = [
        min((f["centres"][n, one] - b["centres"][n, box]).square().sum().item()
            for one in range(PROPOSALS))
        for box in boxes
    ]  # fmt: skip
    answer = 0.0
    for number, score in enumerate(f["answers"][n].double()):
        target = b["worths"][n].item() if number == b["answers"][n] else 0.0
        p = score.sigmoid().item()
        answer -= target * math.log(p) + (1 - target) * math.log(1 - p)
    gaps = (f["pose"][n] - b["pose"][n]).square()
    return {
        "vote": mean(votes),
        "objectness": mean(objectness),
        "box": mean(centres) + mean(reached) + mean(headings) + 0.1 * mean(size_choices)
        + mean(sizes),
        "kind": mean(kinds),
        "pose": (gaps[:3].mean() + gaps[3:].mean()).item(),
        "answer": answer,
    }  # fmt: skip


@pytest.mark.parametrize("detection", [True, False])
@pytest.mark.parametrize("pose", [True, False])
def test_the_loss_of_each_sample_is_the_one_written_out(
    found: dict[str, Tensor], batch: dict[str, Tensor], detection: bool, pose: bool
) -> None:
    whole = losses(found, batch, detection=detection, pose=pose)
    seen = set()
    for sample in range(BATCH):
        terms = written_out(found, batch, sample)
        seen |= {name for name, value in terms.items() if value > 0}
        expected = 0.1 * terms["answer"] + pose * 0.1 * terms["pose"]
        if detection:
            expected += terms["vote"] + terms["objectness"] / 2 + terms["box"] + terms["kind"] / 10
        assert whole[sample].item() == pytest.approx(10 * expected, rel=1e-4)
    assert len(seen) == 6


def test_a_room_without_boxes_teaches_that_no_proposal_is_an_object(
    found: dict[str, Tensor], batch: dict[str, Tensor]
) -> None:
    found = {name: one.clone().requires_grad_(one.is_floating_point())
             for name, one in found.items()}  # fmt: skip
    losses(found, batch, detection=True, pose=False)[2].backward()
    assert (found["objectness"].grad[2, :, 1] > 0).all()
    for name in ("heading", "size_scores", "kinds", "relative_sizes"):
        assert found[name].grad[2].abs().sum() == 0
    assert all(one.grad.isfinite().all() for one in found.values() if one.grad is not None)
