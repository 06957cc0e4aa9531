"""Halves of the items: their neighbours, sums over common ones, and errors that cover."""

import math

import pytest
import torch
from torch import Tensor

from rectify.similarity import halves as module
from rectify.similarity import mutual_knn
from rectify.similarity.halves import common_sums, mutual_knn_error, random_halves, reach, within
from rectify.similarity.neighbours import neighbours
from tests.helpers.feature_spaces import features


def pair(seed: int, items: int) -> tuple[Tensor, Tensor]:
    shared = features(items, 6, seed=seed)
    return tuple(shared + features(items, 6, seed=seed + one) / 2 for one in (1, 2))


def test_halves_are_halves_and_differ() -> None:
    halves = random_halves(11, torch.Generator().manual_seed(0), 8)
    assert halves.sum(1).tolist() == [5] * 8
    assert len({tuple(half.tolist()) for half in halves}) > 1


def test_the_neighbours_within_halves_are_those_of_the_halves_alone() -> None:
    left = features(60, 5)
    half = random_halves(60, torch.Generator().manual_seed(1), 1)[0]
    lists = torch.stack([neighbours(left, 59), neighbours(features(60, 3, seed=2), 59)])
    places, near = within(lists, half, 6)
    for part in (half, ~half):
        names = part.nonzero()[:, 0]
        assert torch.equal(near[0][part], names[neighbours(left[part], 6).long()])
    assert torch.equal(lists.long().gather(2, places), near)


def test_a_list_that_is_too_short_is_filled_with_nobody() -> None:
    lists = torch.tensor([[[1, 2], [0, 2], [3, 0], [2, 1]]])
    half = torch.tensor([True, True, False, False])
    places, near = within(lists, half, 2)
    assert near.tolist() == [[[1, 4], [0, 4], [3, 4], [2, 4]]]
    assert places.tolist() == [[[0, 2]] * 4]
    assert common_sums(near, near).tolist() == [[[1.0] * 4]]


def test_sums_over_common_neighbours_are_those_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    lefts, rights = (
        torch.stack([neighbours(features(30, 4, seed=one), 7) for one in seeds])
        for seeds in ((0, 1, 2), (3, 4))
    )
    weights, others = features(3, 30, 7, seed=5), features(2, 30, 7, seed=6)
    expected = torch.zeros(3, 2, 30)
    counts = torch.zeros(3, 2, 30)
    for i, j, item in torch.cartesian_prod(*map(torch.arange, (3, 2, 30))).tolist():
        for a, one in enumerate(lefts[i, item].tolist()):
            for b, other in enumerate(rights[j, item].tolist()):
                if one == other:
                    expected[i, j, item] += weights[i, item, a] * others[j, item, b]
                    counts[i, j, item] += 1
    for entries in (2**24, 1, 100):
        monkeypatch.setattr(module, "CHUNK_ENTRIES", entries)
        torch.testing.assert_close(common_sums(lefts, rights, weights, others), expected)
        assert torch.equal(common_sums(lefts, rights), counts)


def test_the_error_is_that_of_halves_with_their_own_neighbours() -> None:
    left, right = pair(0, 41)
    lists = [neighbours(left, 40)], [neighbours(right, 40)]
    halves = random_halves(41, torch.Generator().manual_seed(0), 6)
    squares = [
        (mutual_knn(left[half], right[half], 5) - mutual_knn(left[~half], right[~half], 5)) ** 2
        for half in halves
    ]
    found = mutual_knn_error(*lists, 5, halves).item()
    assert found == pytest.approx(math.sqrt(sum(squares) / 6 / 4))


@pytest.mark.slow
def test_intervals_cover_the_mean_over_samples() -> None:
    scores, errors, of_shares = [], [], []
    for sample in range(60):
        left, right = pair(100 * sample, 200)
        lists = [neighbours(left, reach(10, 200))], [neighbours(right, reach(10, 200))]
        halves = random_halves(200, torch.Generator().manual_seed(sample))
        scores.append(mutual_knn(left, right, 10))
        errors.append(mutual_knn_error(*lists, 10, halves).item())
        shares = common_sums(*(torch.stack(side)[..., :10] for side in lists))[0, 0] / 10
        of_shares.append(shares.std().item() / math.sqrt(200))
    score, error = torch.tensor(scores), torch.tensor(errors)
    covered = ((score - score.mean()).abs() < 1.96 * error).double().mean().item()
    assert 0.87 <= covered <= 1.0
    assert 0.75 < (error.mean() / score.std()).item() < 1.5
    assert torch.tensor(of_shares).mean() < 0.85 * error.mean()  # a bootstrap of shares: narrow
