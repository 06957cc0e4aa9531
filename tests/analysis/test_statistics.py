"""Means, intervals, paired differences and rank correlation, against slow obvious ones."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame, Series

from rectify.analysis.statistics import (
    format_summary,
    interval,
    paired_difference,
    paired_gains,
    rank_correlation,
    summary,
)


def test_the_summary_is_the_one_computed_by_hand():
    assert summary([1.0, 2.0, 6.0]) == (3.0, math.sqrt((4 + 1 + 9) / 2), 3)


def test_one_seed_has_no_deviation_and_two_have_no_interval():
    assert summary([71.62]) == (71.62, None, 1)
    assert summary([1.0, 3.0]) == (2.0, math.sqrt(2), 2)
    assert interval([71.62]) is None
    assert interval([1.0, 3.0]) is None


def test_three_seeds_have_student_s_interval():
    low, high = interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t(0.975, 2 degrees of freedom), from a table
    assert (low, high) == pytest.approx((2 - half, 2 + half))


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="at least one value, got none"):
        summary([])


@pytest.mark.parametrize(
    ("values", "text"),
    [((71.62, 0.312, 3), "71.62 ± 0.31 (n=3)"), ((71.62, None, 1), "71.62 (n=1)"),
     ((71.6, math.nan, 1), "71.60 (n=1)"), ((-0.5, 0.25, 2), "-0.50 ± 0.25 (n=2)")],
)  # fmt: skip
def test_a_summary_is_printed_with_its_seeds(values, text):
    assert format_summary(*values) == text


def test_differences_are_taken_within_a_seed():
    treated, baseline = Series({1: 5.0, 0: 2.0}), Series({0: 1.0, 1: 1.5})
    assert paired_difference(treated, baseline).to_dict() == {0: 1.0, 1: 3.5}
    with pytest.raises(ValueError, match=r"same seeds, got \[0, 1\] and \[0, 2\]"):
        paired_difference(treated, Series({0: 1.0, 2: 1.0}))


def all_orders(left: list[float], right: list[float]) -> tuple[float, float]:
    """Spearman's correlation and its p value by going through every order."""

    def rho(a: Series, b: Series) -> float:
        return float(np.corrcoef(a, b)[0, 1])

    a, b = Series(left).rank(), Series(right).rank()
    found = rho(a, b)
    others = [rho(a, Series(order)) for order in itertools.permutations(b)]
    low = np.mean([other <= found + 1e-12 for other in others])
    high = np.mean([other >= found - 1e-12 for other in others])
    return found, min(1.0, 2 * min(low, high))


@pytest.mark.parametrize(
    ("left", "right"),
    [([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]),
     ([1, 1, 2, 3], [4, 3, 3, 1]), ([0.1, 0.3, 0.2], [3, 2, 1])],
)  # fmt: skip
def test_rank_correlation_and_p_value_equal_those_over_all_orders(left, right):
    found = rank_correlation(Series(left), Series(right))
    assert (found.rho, found.p) == pytest.approx(all_orders(left, right))
    assert found.n == len(left)


def test_fifteen_points_give_the_same_p_value_each_time():
    left, right = np.arange(15.0), np.random.default_rng(0).normal(size=15)
    assert rank_correlation(left, right) == rank_correlation(left, right)
    assert rank_correlation(left, left).p < 0.001


def test_there_is_no_correlation_of_two_points_or_of_equal_ones():
    assert rank_correlation([1.0, 2.0], [2.0, 1.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def runs(**accuracies: list[float]) -> DataFrame:
    """Return runs of one ViT on one data set: variant -> accuracy of seeds 0, 1, ..."""
    return pd.concat(
        DataFrame({"run": name, "data": "d", "vision": "v", "variant": name,
                   "seed": range(len(values)), "accuracy_top1": values})
        for name, values in accuracies.items()
    )  # fmt: skip


def test_a_gain_is_over_the_vanilla_run_of_the_same_seed():
    gains = paired_gains(runs(vanilla=[0.70, 0.72], insert=[0.71, 0.70]))
    assert list(gains["gain"]) == pytest.approx([1.0, -2.0])


def test_a_gain_without_a_vanilla_run_is_an_error():
    with pytest.raises(ValueError, match=r"one vanilla run of v on d, got 0\. Add its folder"):
        paired_gains(runs(insert=[0.7]))
