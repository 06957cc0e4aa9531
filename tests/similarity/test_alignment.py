"""Alignment of kernels: each measure against its definition with the kernels written out."""

import math

import pytest
import torch
from torch import Tensor

from rectify.similarity.alignment import cknna, unbiased_cka
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
        (lambda: cknna(torch.ones(6, 3), features(6, 3), 2), "cosines of each side must differ"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
