"""Alignment of kernels: each measure against its definition with the kernels written out."""

import math

import pytest
import torch
from torch import Tensor

from rectify.similarity import alignment
from rectify.similarity.alignment import cka_matrix, cknna, cknna_matrix, unbiased_cka
from rectify.similarity.halves import random_halves
from rectify.similarity.neighbours import neighbours
from tests.helpers.feature_spaces import features, slow_neighbours


def slow_hsic(left: Tensor, right: Tensor) -> float:
    """Song et al. (2012), Eq. 5, with the kernels written out."""
    items = len(left)
    left, right = (k - k.diag().diag() for k in (left, right))
    one = torch.ones(items, dtype=left.dtype)
    value = (left @ right).trace()
    value += (one @ left @ one) * (one @ right @ one) / ((items - 1) * (items - 2))
    value -= 2 / (items - 2) * (one @ left @ right @ one)
    return (value / (items * (items - 3))).item()


def cosines(values: Tensor) -> Tensor:
    unit = values.double() / values.double().norm(dim=1, keepdim=True)
    return unit @ unit.T


def test_unbiased_cka_equals_its_definition_with_full_kernels() -> None:
    left = features(25, 6)
    right = torch.cat([left, features(25, 4, seed=1)], 1)
    k, q = cosines(left), cosines(right)
    expected = slow_hsic(k, q) / math.sqrt(slow_hsic(k, k) * slow_hsic(q, q))
    assert unbiased_cka(left, right) == pytest.approx(expected, rel=1e-5)
    assert unbiased_cka(left, left) == pytest.approx(1)


def test_unrelated_spaces_have_an_unbiased_cka_around_zero() -> None:
    pairs = [(features(50, 8, seed=2 * s), features(50, 8, seed=2 * s + 1)) for s in range(40)]
    values = torch.tensor([unbiased_cka(left, right) for left, right in pairs])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(40)


def test_cknna_equals_its_definition_with_full_kernels() -> None:
    left = features(25, 6)
    right = torch.cat([left, features(25, 4, seed=1)], 1)

    def alignment(left: Tensor, right: Tensor) -> float:
        near, also = slow_neighbours(left, 5), slow_neighbours(right, 5)
        k, q = (cosines(v) - cosines(v).mean(1, keepdim=True) for v in (left, right))
        return sum((k[i, j] * q[i, j]).item() for i in range(25) for j in {*near[i]} & {*also[i]})

    expected = alignment(left, right) / math.sqrt(alignment(left, left) * alignment(right, right))
    assert cknna(left, right, 5) == pytest.approx(expected, rel=1e-5)
    assert cknna(left, left, 5) == pytest.approx(1)


def layers(seed: int, items: int = 40) -> tuple[list[Tensor], list[Tensor]]:
    """Return three layers and two of another width, which share a part."""
    shared = features(items, 6, seed=seed)
    lefts = [shared + features(items, 6, seed=seed + one) / 2 for one in (1, 2, 3)]
    rights = [torch.cat([shared, features(items, 4, seed=seed + one)], 1) for one in (4, 5)]
    return lefts, rights


def test_the_matrices_hold_the_values_of_their_pairs_whatever_the_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lefts, rights = layers(0)
    lists = [[neighbours(one, 5) for one in side] for side in (lefts, rights)]
    for entries in (2**24, 1, 500):
        monkeypatch.setattr(alignment, "CHUNK_ENTRIES", entries)
        cka, near = cka_matrix(lefts, rights), cknna_matrix(lefts, rights, *lists, 5)
        for i, left in enumerate(lefts):
            for j, right in enumerate(rights):
                assert cka.score[i, j].item() == pytest.approx(unbiased_cka(left, right))
                assert near.score[i, j].item() == pytest.approx(cknna(left, right, 5))
        assert near.error.isnan().all()


def test_the_error_of_cka_is_near_that_of_leaving_out_each_item() -> None:
    lefts, rights = layers(0, items=150)
    kept = [[n for n in range(150) if n != left_out] for left_out in range(150)]
    values = torch.tensor([unbiased_cka(lefts[0][k], rights[0][k]) for k in kept])
    jackknife = math.sqrt(149 / 150 * (values - values.mean()).square().sum())
    assert cka_matrix(lefts, rights).error[0, 0].item() == pytest.approx(jackknife, rel=0.05)


def test_the_error_of_cknna_is_that_of_halves_with_their_own_neighbours() -> None:
    lefts, rights = layers(0)
    lists = [[neighbours(one, 39) for one in side] for side in (lefts, rights)]
    halves = random_halves(40, torch.Generator().manual_seed(0), 6)
    squares = [
        (cknna(lefts[1][half], rights[0][half], 5) - cknna(lefts[1][~half], rights[0][~half], 5))
        ** 2
        for half in halves
    ]
    found = cknna_matrix(lefts, rights, *lists, 5, halves).error[1, 0].item()
    assert found == pytest.approx(math.sqrt(sum(squares) / 6 / 4))


@pytest.mark.slow
def test_intervals_cover_the_mean_over_samples() -> None:
    scores, errors = {"cka": [], "cknna": []}, {"cka": [], "cknna": []}
    for sample in range(60):
        lefts, rights = layers(100 * sample, items=200)
        left, right = lefts[:1], rights[:1]
        lists = [neighbours(left[0], 40)], [neighbours(right[0], 40)]
        halves = random_halves(200, torch.Generator().manual_seed(sample))
        found = {
            "cka": cka_matrix(left, right),
            "cknna": cknna_matrix(left, right, *lists, 10, halves),
        }
        for name, (score, error) in found.items():
            scores[name].append(score.item())
            errors[name].append(error.item())
    for name in scores:
        score, error = torch.tensor(scores[name]), torch.tensor(errors[name])
        covered = ((score - score.mean()).abs() < 1.96 * error).double().mean()
        assert 0.87 <= covered <= 1.0
        assert 0.75 < (error.mean() / score.std()).item() < 1.5


def test_a_constant_layer_has_no_alignment() -> None:
    lefts, rights = layers(0)
    lefts[1] = torch.ones(40, 6)
    lists = [[neighbours(one, 5) for one in side] for side in (lefts, rights)]
    for score in (cka_matrix(lefts, rights).score, cknna_matrix(lefts, rights, *lists, 5).score):
        assert score.isnan().any(1).tolist() == [False, True, False]
    assert cka_matrix(lefts, rights).error.isnan().any(1).tolist() == [False, True, False]


def test_arrays_are_aligned_as_tensors_are() -> None:
    left, right = features(25, 6), features(25, 4, seed=1)
    assert unbiased_cka(left.numpy(), right.numpy()) == unbiased_cka(left, right)
    assert cknna(left.numpy(), right.numpy(), 5) == cknna(left, right, 5)


def test_what_cannot_be_aligned_is_refused_in_one_line() -> None:
    values, broken = features(64, 4), features(64, 4)
    broken[5, 1] = math.nan
    for action, message in (
        (lambda: unbiased_cka(values, values[:60]), "must have the same items, got 64 and 60"),
        (lambda: cknna(values, values[:60], 3), "must have the same items, got 64 and 60"),
        (lambda: unbiased_cka(values[:3], values[:3]), "at least 4 items are needed, got 3"),
        (lambda: unbiased_cka(values, broken), "features must be finite"),
        (lambda: cknna(torch.ones(6, 3), features(6, 3), 2), "features of left must differ"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
