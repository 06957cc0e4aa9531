"""Mutual-KNN and its calibration against sets of neighbours, counted one by one."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.similarity import calibration, mutual_knn, mutual_knn_matrix
from rectify.similarity import scores as module
from rectify.similarity.calibration import Calibration, calibrated_matrix
from rectify.similarity.neighbours import neighbours
from rectify.similarity.scores import (
    chance_level,
    clamp_outliers,
    shared_neighbours,
)
from tests.helpers.feature_spaces import features, slow_neighbours


def slow_mutual_knn(left: Tensor, right: Tensor, k: int) -> float:
    pairs = zip(slow_neighbours(left, k), slow_neighbours(right, k), strict=True)
    return sum(len({*near} & {*also}) for near, also in pairs) / (len(left) * k)


def calibrated(left: Tensor, right: Tensor, permutations: int, draws) -> tuple[float, ...]:
    """Calibrated score and p-values of one pair of lists."""
    return tuple(one.item() for one in calibrated_matrix([left], [right], permutations, draws))


def slow_calibrated(lefts, rights, k: int, orders: list[Tensor]) -> tuple[list, list, list]:
    """Gated score, p-value and that of the maximum of every pair, by loops over permutations."""
    pairs = [(left, right) for left in lefts for right in rights]
    observed = [slow_mutual_knn(left, right, k) for left, right in pairs]
    null = [[slow_mutual_knn(left, right[order], k) for left, right in pairs] for order in orders]
    largest = sorted(max(row) for row in null)
    total = len(orders) + 1
    p = [(1 + sum(row[i] >= s - 1e-9 for row in null)) / total for i, s in enumerate(observed)]
    p_maximum = [(1 + sum(one >= s - 1e-9 for one in largest)) / total for s in observed]
    tau = next(one for one in largest if sum(t >= one - 1e-9 for t in largest) + 1 > total / 20
               and sum(t > one + 1e-9 for t in largest) + 1 <= total / 20)  # fmt: skip
    return [max(0.0, (s - tau) / (1 - tau)) for s in observed], p, p_maximum


def circle(*degrees: float) -> Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_a_space_agrees_with_itself_its_rotation_and_its_scale() -> None:
    left = features(60, 8)
    rotation = torch.linalg.qr(features(8, 8, seed=1)).Q
    assert mutual_knn(left, left, 5) == 1.0
    assert mutual_knn(left, 3 * left @ rotation, 5) == 1.0


def test_six_items_on_a_circle_give_the_score_counted_by_hand() -> None:
    left = circle(0, 10, 30, 100, 115, 140)
    right = circle(0, 10, 100, 30, 115, 140)  # items 2 and 3 change places
    assert neighbours(left, 1).flatten().tolist() == [1, 0, 1, 4, 3, 4]
    assert neighbours(right, 1).flatten().tolist() == [1, 0, 4, 1, 2, 4]
    assert mutual_knn(left, right, 1) == 3 / 6
    assert neighbours(left, 2).tolist() == [[1, 2], [0, 2], [1, 0], [4, 5], [3, 5], [4, 3]]


def test_unrelated_spaces_score_at_chance() -> None:
    pairs = [(features(300, 16, seed=s), features(300, 12, seed=s + 50)) for s in range(12)]
    scores = [mutual_knn(left, right, 10) for left, right in pairs]
    assert sum(scores) / 12 == pytest.approx(chance_level(10, 300), rel=0.1)
    assert chance_level(10, 1024) == pytest.approx(0.009775, abs=1e-6)


def test_every_pair_of_layers_scores_as_the_slow_definition() -> None:
    shared = features(70, 6)
    lefts = [shared + features(70, 6, seed=seed) / 2 for seed in (1, 2, 3)]
    rights = [torch.cat([shared, features(70, 9, seed=seed)], 1) for seed in (4, 5)]
    found = mutual_knn_matrix(lefts, rights, 7)
    for i, left in enumerate(lefts):
        for j, right in enumerate(rights):
            assert found[i, j].item() == pytest.approx(slow_mutual_knn(left, right, 7), abs=1e-12)
    assert torch.equal(found, mutual_knn_matrix(torch.stack(lefts), torch.stack(rights), 7))
    assert found.tolist() == [[mutual_knn(left, right, 7) for right in rights] for left in lefts]


def test_arrays_score_as_tensors_do() -> None:
    shared = features(70, 6)
    lefts = torch.stack([shared + features(70, 6, seed=seed) / 2 for seed in (1, 2, 3)])
    rights = torch.stack([shared + features(70, 6, seed=seed) / 2 for seed in (4, 5)])
    expected = mutual_knn_matrix(lefts, rights, 7)
    assert torch.equal(mutual_knn_matrix(lefts.numpy(), rights.numpy(), 7), expected)
    assert torch.equal(mutual_knn_matrix([*lefts.numpy()], rights, 7), expected)
    assert mutual_knn(lefts[0].numpy(), rights[1].numpy(), 7) == expected[0, 1]
    double = np.asarray(lefts[0].numpy(), dtype=np.float64)
    assert mutual_knn(double, rights[1], 7) == expected[0, 1]


def test_the_lists_give_the_score_of_a_smaller_k() -> None:
    shared = features(70, 6)
    left, right = (torch.cat([shared, features(70, 9, seed=seed)], 1) for seed in (4, 5))
    lists = neighbours(left, 12), neighbours(right, 12)
    for k in (1, 5, 12):
        cut = [indices[:, :k] for indices in lists]
        assert shared_neighbours(cut[:1], cut[1:]).item() == mutual_knn(left, right, k)


def test_every_k_up_to_all_other_items_is_allowed() -> None:
    left, right = features(9, 4), features(9, 4, seed=1)
    for k in range(1, 9):
        assert mutual_knn(left, right, k) == pytest.approx(slow_mutual_knn(left, right, k))
    assert mutual_knn(left, right, 8) == 1.0


def test_wrong_requests_are_refused() -> None:
    values = features(64, 4)
    for k in (0, 64, 99):
        with pytest.raises(ValueError, match=rf"k must lie in 1\.\.63 for 64 items, got {k}\."):
            mutual_knn(values, values, k)
    with pytest.raises(ValueError, match="both sides must have the same items"):
        mutual_knn(values, values[:60], 3)
    values[5, 1] = math.nan
    with pytest.raises(ValueError, match="features must be finite"):
        mutual_knn(values, values, 3)


@pytest.mark.parametrize("permutations", [19, 25, 40, 79])
def test_the_gated_scores_are_those_of_a_loop_over_permuted_features(permutations: int) -> None:
    shared = features(30, 4)
    lefts = [shared, features(30, 4, seed=1)]
    rights = [shared + features(30, 4, seed=seed) / 2 for seed in (2, 3, 4)]
    lists = [[neighbours(one, 4) for one in side] for side in (lefts, rights)]
    draws, again = (torch.Generator().manual_seed(3) for _ in range(2))
    found = calibrated_matrix(*lists, permutations, draws)
    orders = [torch.randperm(30, generator=again) for _ in range(permutations)]
    expected = slow_calibrated(lefts, rights, 4, orders)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.flatten().tolist() == pytest.approx(theirs)
    assert (found.score > 0).sum() >= 3
    assert (found.score == 0).sum() >= 3
    assert torch.equal(found.score > 0, found.p_maximum <= 0.05)


def test_the_permuted_scores_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [neighbours(features(50, 6, seed=seed), 7) for seed in range(5)]

    def result() -> Calibration:
        return calibrated_matrix(lists[:3], lists[3:], 40, torch.Generator().manual_seed(0))

    whole = result()
    for entries in (1, 1000):
        monkeypatch.setattr(module, "CHUNK_ENTRIES", entries)
        monkeypatch.setattr(calibration, "CHUNK_ENTRIES", entries)
        assert all(map(torch.equal, result(), whole))


def test_the_best_of_many_layers_of_unrelated_models_is_gated_to_zero() -> None:
    gated, p_values, largest_p = 0, [], []
    for draw in range(20):
        sides = [
            [neighbours(features(100, 6, seed=1000 * draw + 100 * side + layer), 5)
             for layer in range(6)]
            for side in range(2)
        ]  # fmt: skip
        found = calibrated_matrix(*sides, 99, torch.Generator().manual_seed(draw))
        gated += found.score.max().item() == 0
        p_values.append(found.p.min().item())
        largest_p.append(found.p_maximum.min().item())
    assert gated >= 19
    assert sum(p <= 0.05 for p in largest_p) <= 1
    assert sum(p <= 0.05 for p in p_values) >= 10  # what the search over 36 pairs finds


def test_unrelated_spaces_have_uniform_p_values() -> None:
    lefts = [neighbours(features(60, 6, seed=seed), 5) for seed in range(20)]
    rights = [neighbours(features(60, 6, seed=100 + seed), 5) for seed in range(20)]
    p_values = calibrated_matrix(lefts, rights, 60, torch.Generator().manual_seed(0)).p
    assert p_values.mean().item() == pytest.approx(0.5, abs=0.07)
    for level in (0.1, 0.5, 0.9):
        assert (p_values <= level).double().mean().item() == pytest.approx(level, abs=0.1)


def test_equal_spaces_calibrate_to_one() -> None:
    one = neighbours(features(40, 6), 5)
    found = calibrated(one, one, 19, torch.Generator().manual_seed(0))
    assert found == (1.0, 1 / 20, 1 / 20)


def test_a_single_pair_has_the_p_values_of_its_matrix() -> None:
    lists = [neighbours(features(40, 6, seed=seed), 5) for seed in range(4)]
    found = calibrated_matrix(lists[:2], lists[1:], 30, torch.Generator().manual_seed(0))
    for i, left in enumerate(lists[:2]):
        for j, right in enumerate(lists[1:]):
            _, p, p_maximum = calibrated(left, right, 30, torch.Generator().manual_seed(0))
            assert p == p_maximum == found.p[i, j]
            assert found.p_maximum[i, j] >= p
    with pytest.raises(ValueError, match=r"permutations must be at least 19, .* got 18"):
        calibrated_matrix(lists, lists, 18, torch.Generator())
    with pytest.raises(ValueError, match=r"the same items and k, got .* \[\(40, 5\), \(41, 5\)\]"):
        shared_neighbours(lists, [neighbours(features(41, 3), 5)])


def test_outliers_are_clamped_at_one_quantile_of_all_layers() -> None:
    layers = [features(20, 3), 5 * features(20, 7, seed=1)]
    every = sorted(abs(value) for layer in layers for value in layer.flatten().tolist())
    threshold = every[int(0.9 * len(every))]
    for found, layer in zip(clamp_outliers(layers, 0.9), layers, strict=True):
        assert torch.equal(found, layer.clamp(-threshold, threshold))
    for found, layer in zip(clamp_outliers(layers, 0.9, "per_layer"), layers, strict=True):
        own = layer.abs().flatten().sort().values[int(0.9 * layer.numel())]
        assert torch.equal(found, layer.clamp(-own, own))


def test_outliers_are_clamped_at_the_mean_of_the_items_quantiles() -> None:
    layers = [features(20, 3), 5 * features(20, 7, seed=1)]
    own = []
    for item in range(20):
        values = sorted(abs(v) for layer in layers for v in layer[item].tolist())
        place = 0.9 * (len(values) - 1)
        low = values[int(place)]
        own.append(low + (place - int(place)) * (values[int(place) + 1] - low))
    threshold = sum(own) / 20
    for found, layer in zip(clamp_outliers(layers, 0.9, "per_sample"), layers, strict=True):
        torch.testing.assert_close(found, layer.clamp(-threshold, threshold))


def test_the_quantile_one_clamps_nothing() -> None:
    layers = features(2, 10, 3)
    assert torch.equal(torch.stack(clamp_outliers(layers, 1.0)), layers)
    for quantile, scope in ((0.0, "global"), (1.1, "global"), (0.9, "all")):
        with pytest.raises(ValueError, match=r"quantile must lie in 0\.\.1 and scope"):
            clamp_outliers(layers, quantile, scope)


def test_lists_of_all_other_items_have_no_calibrated_score():
    values = features(6, 3)
    with pytest.raises(ValueError, match=r"k must lie below 5, .* got 5") as caught:
        calibrated(neighbours(values, 5), neighbours(values, 5), 19, torch.Generator())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"the same items and k, got .* \[\(6, 2\), \(6, 5\)\]"):
        shared_neighbours([neighbours(values, 5)], [neighbours(values, 2)])
