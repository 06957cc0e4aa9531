"""Neighbours: the order of fp64 cosines, whatever the features, the precision or the chunk."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.similarity import (
    calibrated,
    chance_level,
    cknna,
    mutual_knn,
    mutual_knn_matrix,
)
from rectify.similarity import features as features_module
from rectify.similarity import neighbours as module
from rectify.similarity.features import as_tensor
from rectify.similarity.neighbours import neighbours
from rectify.similarity.scores import shared_neighbours
from tests.helpers.feature_spaces import features, slow_neighbours


def heavy_tailed() -> Tensor:
    return features(150, 48) / features(150, 48, seed=1).abs() ** 2


def outlying_dimension() -> Tensor:
    values = features(150, 48)
    values[:, 5] += 1000
    return values


def outlying_dimension_of_each() -> Tensor:
    values = features(150, 48)
    values[torch.arange(150), torch.arange(150) % 4] = 300.0
    return values


def one_opposite() -> Tensor:
    values = features(150, 48) + 20
    values[3] *= -1
    return values


def blank_items() -> Tensor:
    values = features(150, 48)
    values[40:80] = 0
    values[100:120] = values[100]
    return values


KINDS = {
    "random": features(150, 48),
    "crowded": features(150, 48) + 5,
    "very crowded": 8 * features(150, 48) + 1000,
    "alike to the fifth digit": features(150, 48) * 1e-2 + 5,
    "positive": features(150, 48).relu(),
    "heavy-tailed": heavy_tailed(),
    "an outlying dimension": outlying_dimension(),
    "an outlying dimension of each": outlying_dimension_of_each(),
    "one opposite": one_opposite(),
    "huge": features(150, 48) * 1e30,
    "of all sizes": features(150, 48) * 10 ** (4 * features(150, 1, seed=1)),
    "repeated": features(50, 48).repeat(3, 1),
    "blank": blank_items(),
    "all equal": features(1, 48).expand(150, -1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_neighbours_are_those_of_the_slow_definition_in_order(kind: str, dtype) -> None:
    values = KINDS[kind].to(dtype)
    assert neighbours(values, 10).tolist() == slow_neighbours(values, 10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_of_any_kind_have_the_neighbours_of_the_tensor(dtype) -> None:
    array = features(60, 8).numpy().astype(dtype)
    expected = slow_neighbours(torch.from_numpy(array.copy()), 5)
    assert neighbours(array, 5).tolist() == expected
    assert neighbours(np.asfortranarray(array), 5).tolist() == expected
    assert neighbours(array[:, ::-1], 5).tolist() == expected  # cosines are of any order
    array.flags.writeable = False
    assert neighbours(array, 5).tolist() == expected


def test_the_memory_of_an_array_is_shared_and_never_written() -> None:
    array = features(60, 8).numpy()
    before = array.copy()
    assert as_tensor(array).data_ptr() == array.ctypes.data
    neighbours(array, 5)
    assert np.array_equal(array, before)


def test_the_lists_of_a_smaller_k_are_the_first_columns() -> None:
    values = blank_items()
    found = neighbours(values, 20)
    for k in (1, 7, 19):
        assert torch.equal(neighbours(values, k), found[:, :k])


def test_no_row_is_settled_in_fp64_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    settled = []
    original = module._settled

    def counted(features: Tensor, rows: Tensor, *more: object) -> tuple[Tensor, Tensor]:
        settled.extend(rows.tolist())
        return original(features, rows, *more)

    monkeypatch.setattr(module, "_settled", counted)
    crowded = features(400, 64) + 50  # the mean cosine is 0.9996
    neighbours(crowded, 10)
    assert len(settled) < 40
    settled.clear()
    crowded[17] = crowded[250]  # now rows that hold one of the two must choose
    found = neighbours(crowded, 10)
    assert set(((found == 17) | (found == 250)).any(1).nonzero()[:, 0].tolist()) - {17, 250} <= set(
        settled
    )


def test_equal_items_are_taken_in_order_of_their_index() -> None:
    values = features(5, 4)[torch.arange(40) % 5]  # each of five items eight times
    found = neighbours(values, 3)
    for i, row in enumerate(found.tolist()):
        assert row == [j for j in range(i % 5, 40, 5) if j != i][:3]


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_the_neighbours_do_not_depend_on_the_chunk(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.cat([features(90, 33), features(30, 33)]) + scale  # 30 items twice
    expected = neighbours(values, 8)
    for chunk in (1, 7, 64, 1000):
        assert torch.equal(neighbours(values, 8, chunk=chunk), expected)
    monkeypatch.setattr(module, "CHUNK_ENTRIES", 2000)
    monkeypatch.setattr(module, "STRIPE_ENTRIES", 100)
    monkeypatch.setattr(features_module, "STRIPE_ENTRIES", 100)
    assert torch.equal(neighbours(values, 8), expected)


def test_bfloat16_features_are_compared_in_full_precision_under_autocast() -> None:
    values = (features(120, 32) + 4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = neighbours(values, 10)
    assert torch.equal(found, neighbours(values.float(), 10))
    assert torch.equal(found, neighbours(values.double(), 10))


def test_the_precision_of_matrix_products_is_put_back() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        neighbours(features(9, 3), 2)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def slow_ties(values: Tensor, k: int) -> list[bool]:
    """Whether the k-th and the next of all other items are equally near, one item at a time."""
    unit = torch.nn.functional.normalize(values.double())
    ties = []
    for item, row in enumerate(unit @ unit.T):
        others = sorted((row[j].item() for j in range(len(row)) if j != item), reverse=True)
        ties.append(k < len(others) and others[k - 1] - others[k] <= 1e-13)
    return ties


@pytest.mark.parametrize("kind", [*KINDS, "one-hot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ties_are_those_of_the_slow_definition(kind: str, dtype: torch.dtype) -> None:
    groups = torch.randint(30, (150,), generator=torch.Generator().manual_seed(0))
    values = (torch.eye(30)[groups] if kind == "one-hot" else KINDS[kind]).to(dtype)
    for k, at in ((10, 10), (30, 10), (149, 149), (149, 7), (2, 2)):
        lists, tied = module._neighbours(values, k, at)
        assert tied.tolist() == slow_ties(values, at)
        assert lists.tolist() == slow_neighbours(values, k)


def classes(number: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.eye(number)[torch.randint(number, (300,), generator=draws)]


@pytest.mark.parametrize("number", [10, 60, 100])
def test_ties_on_both_sides_are_refused_since_they_look_like_agreement(number: int) -> None:
    left, right = classes(number, 0), classes(number, 1)
    lists = [neighbours(left, 10)], [neighbours(right, 10)]
    assert shared_neighbours(*lists).item() > 2 * chance_level(10, 300)  # by their indices alone
    message = r"mutual_knn: features must tell neighbours apart, got \d+ of 300 items whose"
    with pytest.raises(ValueError, match=message) as caught:
        mutual_knn(left, right, 10)
    assert "\n" not in str(caught.value)
    for measure in (calibrated, mutual_knn_matrix):
        with pytest.raises(ValueError, match=r"both sides \(layers 1 and 0\)"):
            measure([features(300, 5), left], [right], 10)
    with pytest.raises(ValueError, match=r"cknna: features must tell neighbours apart"):
        cknna(left, right, 10)


def test_ties_of_one_side_and_a_few_copies_do_no_harm() -> None:
    scores = [mutual_knn(classes(60, seed), features(300, 16, seed=seed), 10) for seed in range(20)]
    assert sum(scores) / 20 == pytest.approx(chance_level(10, 300), rel=0.1)
    copies = features(300, 16)
    copies[5] = copies[17]
    assert mutual_knn(copies, copies, 10) == 1.0
