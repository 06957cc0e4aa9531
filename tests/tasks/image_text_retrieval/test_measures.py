"""Ranks and losses of retrieval against slow loops, ties and what is no number among them."""

import math

import pytest
import torch

from rectify.runtime import generator
from rectify.tasks.image_text_retrieval import measures


def slow_rank(scores: list[float], true: list[bool]) -> int:
    """Sort everything with what is true last among equals, and look where the first true one is."""
    order = sorted(range(len(scores)), key=lambda n: (-scores[n], true[n]))
    return next(place for place, n in enumerate(order) if true[n])


def cases() -> tuple[torch.Tensor, torch.Tensor]:
    draws = generator(0, "cases")
    scores = torch.randint(4, (60, 12), generator=draws).float()  # many ties
    scores[30:] = torch.randn(30, 12, generator=draws)
    true = torch.rand(60, 12, generator=draws) < 0.2
    true[torch.arange(60), torch.randint(12, (60,), generator=draws)] = True
    return scores, true


def test_ranks_are_those_of_a_sort_in_which_ties_are_misses():
    scores, true = cases()
    found = measures.ranks(scores, true).tolist()
    assert found == [slow_rank(*both) for both in zip(scores.tolist(), true.tolist(), strict=True)]
    assert len(set(found)) > 5
    single = true & (true.cumsum(1) == 1)
    counted = [
        sum(other >= scores[row, own] for n, other in enumerate(scores[row]) if n != own)
        for row, own in enumerate(single.int().argmax(1).tolist())
    ]
    assert measures.ranks(scores, single).tolist() == counted


def test_equal_scores_and_what_is_no_number_are_misses():
    true = torch.eye(4, dtype=torch.bool)
    assert measures.ranks(torch.zeros(4, 4), true).tolist() == [3] * 4
    scores = torch.eye(4)
    scores[0, 0] = scores[1, 2] = math.nan
    assert measures.ranks(scores, true).tolist() == [3, 1, 0, 0]


def test_losses_are_those_of_a_loop():
    scores, true = cases()
    for loss, row, own in zip(measures.losses(scores, true), scores, true, strict=True):
        shares = [math.exp(one) / sum(map(math.exp, row.tolist())) for one in row.tolist()]
        kept = [share for share, is_own in zip(shares, own.tolist(), strict=True) if is_own]
        assert loss.item() == pytest.approx(-math.log(sum(kept)), abs=1e-5)
