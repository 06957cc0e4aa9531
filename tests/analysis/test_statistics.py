"""Means, paired differences and rank correlation, against slow obvious ones."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame, Series

from rectify.analysis.metrics import ACCURACY, Metric
from rectify.analysis.statistics import (
    format_p,
    format_spread,
    holm,
    paired_difference,
    rank_correlation,
    seed_count,
    stratified_correlation,
    summary,
    with_gains,
)


def test_the_summary_is_the_one_computed_by_hand() -> None:
    assert summary([1.0, 2.0, 6.0]) == (3.0, math.sqrt((4 + 1 + 9) / 2), 3)


def test_one_seed_has_no_deviation() -> None:
    assert summary([71.62]) == (71.62, None, 1)
    assert summary([1.0, 3.0]) == (2.0, math.sqrt(2), 2)


def test_no_values_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one value, got none"):
        summary([])


@pytest.mark.parametrize(
    ("values", "text"),
    [((71.62, 0.312), "71.62 ± 0.31"), ((71.62, None), "71.62"), ((71.6, math.nan), "71.60"),
     ((-0.5, 0.25), "-0.50 ± 0.25")],
)  # fmt: skip
def test_a_spread_is_printed_only_where_there_is_one(
    values: tuple[float, float | None], text: str
) -> None:
    assert format_spread(*values) == text


@pytest.mark.parametrize(("n", "text"), [(1, "n = 1 seed"), (2, "n = 2 seeds")])
def test_the_number_of_seeds_is_printed_as_people_say_it(n: int, text: str) -> None:
    assert seed_count(n) == text


def test_differences_are_taken_within_a_seed() -> None:
    treated, baseline = Series({1: 5.0, 0: 2.0}), Series({0: 1.0, 1: 1.5})
    assert paired_difference(treated, baseline).to_dict() == {0: 1.0, 1: 3.5}
    with pytest.raises(ValueError, match=r"same seeds, got \[0, 1\] and \[0, 2\]"):
        paired_difference(treated, Series({0: 1.0, 2: 1.0}))


def all_orders(left: list[float], right: list[float]) -> tuple[float, float]:
    """Spearman's correlation and its p value by going through every order."""

    def rho(a: Series, b: Series) -> float:
        return float(np.corrcoef(a, b)[0, 1])

    a, b = Series(left).rank(), Series(right).rank()
    correlation = rho(a, b)
    others = [rho(a, Series(order)) for order in itertools.permutations(b)]
    low = np.mean([other <= correlation + 1e-12 for other in others])
    high = np.mean([other >= correlation - 1e-12 for other in others])
    return correlation, min(1.0, 2 * min(low, high))


@pytest.mark.parametrize(
    ("left", "right"),
    [([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]), ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]),
     ([1, 1, 2, 3], [4, 3, 3, 1]), ([0.1, 0.3, 0.2], [3, 2, 1])],
)  # fmt: skip
def test_rank_correlation_and_p_value_equal_those_over_all_orders(
    left: list[float], right: list[float]
) -> None:
    rho, p, n = rank_correlation(Series(left), Series(right))
    assert (rho, p) == pytest.approx(all_orders(left, right))
    assert n == len(left)


def test_fifteen_points_give_the_same_p_value_each_time() -> None:
    left, right = np.arange(15.0), np.random.default_rng(0).normal(size=15)
    assert rank_correlation(left, right) == rank_correlation(left, right)
    assert rank_correlation(left, left).p < 0.001


def test_there_is_no_correlation_of_two_points_or_of_equal_ones() -> None:
    assert rank_correlation([1.0, 2.0], [2.0, 1.0]) is None
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


STRATA = ["a", "b", "a", "b", "b", "a", "c"]


def all_orders_within(
    left: list[float], right: list[float], strata: list[str]
) -> tuple[float, float]:
    """The correlation of centred ranks and its p value, by every order that keeps the strata."""
    frame = DataFrame({"left": left, "right": right, "stratum": strata})
    ranks = frame.groupby("stratum").rank()
    ours, theirs = (
        (ranks[side] - ranks[side].groupby(frame["stratum"]).transform("mean")).tolist()
        for side in ("left", "right")
    )
    correlation, others = np.corrcoef(ours, theirs)[0, 1], []
    for order in itertools.permutations(range(len(strata))):
        if all(strata[i] == strata[j] for i, j in enumerate(order)):
            others.append(np.corrcoef(ours, [theirs[j] for j in order])[0, 1])
    low = np.mean([other <= correlation + 1e-12 for other in others])
    high = np.mean([other >= correlation - 1e-12 for other in others])
    return correlation, min(1.0, 2 * min(low, high))


@pytest.mark.parametrize(
    ("left", "right"),
    [([1, 5, 2, 6, 7, 3, 9], [1, 2, 2, 5, 9, 3, 0]), ([1, 5, 2, 6, 7, 3, 9], [4, 2, 2, 2, 1, 4, 8]),
     ([3, 3, 1, 4, 3, 2, 0], [0.1, 0.3, 0.2, 0.5, 0.4, 0.0, 0.6])],
)  # fmt: skip
def test_the_correlation_within_strata_equals_that_over_all_orders_that_keep_them(
    left: list[float], right: list[float]
) -> None:
    rho, p, n = stratified_correlation(Series(left), Series(right), Series(STRATA))
    assert (rho, p) == pytest.approx(all_orders_within(left, right, STRATA))
    assert n == len(left)


def test_with_one_stratum_it_is_the_plain_rank_correlation() -> None:
    left, right = [0.1, 0.4, 0.2, 0.9, 0.5], [1.0, 3.0, 3.0, 4.0, 2.0]
    within = stratified_correlation(left, right, ["a"] * 5)
    assert within == pytest.approx(rank_correlation(left, right))


def test_what_only_distinguishes_strata_is_no_correlation_within_them() -> None:
    strata = np.repeat(["a", "b", "c", "d"], 4)
    level = np.repeat([0.0, 10.0, 20.0, 30.0], 4)
    left, right = level + np.tile([1, 2, 3, 4], 4), level + np.tile([2, 4, 1, 3], 4)
    pooled, within = rank_correlation(left, right), stratified_correlation(left, right, strata)
    assert pooled.rho > 0.9
    assert pooled.p < 0.001
    assert (within.rho, within.p) == (0, 1)


def test_random_orders_within_strata_come_close_to_all_of_them() -> None:
    """Two strata of six have 518,400 orders; all sums of products are counted here."""
    values = np.random.default_rng(3).permuted(np.tile(np.arange(6.0), (4, 1)), axis=1)
    (ours, more), (theirs, others) = values[:2], values[2:]
    sums = [
        np.array([np.dot(side, order) for order in itertools.permutations(other)])
        for side, other in ((ours, theirs), (more, others))
    ]
    every = np.add.outer(*sums)
    observed = ours @ theirs + more @ others
    exact = min(1.0, 2 * min(np.mean(every <= observed), np.mean(every >= observed)))
    sides = (np.concatenate([ours, more]), np.concatenate([theirs, others]))
    first = stratified_correlation(*sides, ["a"] * 6 + ["b"] * 6)
    assert first.p == pytest.approx(exact, abs=0.01)
    assert first == stratified_correlation(*sides, ["a"] * 6 + ["b"] * 6)
    perfect = stratified_correlation(sides[0], sides[0], ["a"] * 6 + ["b"] * 6)
    assert perfect.rho == 1
    assert 2 / 50_001 <= perfect.p < 0.001  # the observed order counts, so p is never 0


def test_there_is_no_correlation_within_strata_of_one_point_or_of_equal_ones() -> None:
    assert stratified_correlation([1.0, 2.0, 3.0], [2.0, 1.0, 3.0], ["a", "b", "c"]) is None
    assert stratified_correlation([1.0, 1.0, 3.0], [2.0, 1.0, 3.0], ["a", "a", "c"]) is None
    assert stratified_correlation([1.0, 2.0], [2.0, 1.0], ["a", "a"]) is None
    assert stratified_correlation([], [], []) is None


@pytest.mark.parametrize(
    ("p", "text"), [(0.0124, "p = 0.012"), (0.0009, "p < 0.001"), (0.001, "p = 0.001")]
)
def test_a_small_p_value_is_printed_as_below_a_thousandth(p: float, text: str) -> None:
    assert format_p(p) == text


LOSS = Metric("loss", "loss", "nats", better="lower")


def runs(**accuracies: list[float]) -> DataFrame:
    """Return runs of one ViT on one data set: variant -> accuracy of seeds 0, 1, ..."""
    return pd.concat(
        (DataFrame({"run": name, "data": "d", "vision": "v", "variant": name,
                    "seed": range(len(values)), "accuracy": values,
                    "loss": [1 - value for value in values]})
         for name, values in accuracies.items()),
        ignore_index=True,
    )  # fmt: skip


def test_a_gain_is_over_the_vanilla_run_of_the_same_seed() -> None:
    gains = with_gains(runs(vanilla=[0.70, 0.72], insert=[0.71, 0.70]), [ACCURACY])
    assert gains["gain_accuracy"].tolist()[2:] == pytest.approx([0.01, -0.02])
    assert gains["gain_accuracy"].isna().tolist() == [True, True, False, False]


def test_a_gain_is_positive_where_less_is_better() -> None:
    gains = with_gains(runs(vanilla=[0.70], insert=[0.75]), [ACCURACY, LOSS])
    assert gains["gain_loss"].tolist()[1] == pytest.approx(0.05)
    assert gains["gain_accuracy"].tolist()[1] == pytest.approx(0.05)


def test_gains_do_not_depend_on_the_order_of_rows() -> None:
    frame = runs(vanilla=[0.70, 0.72], insert=[0.71, 0.70])
    turned = with_gains(frame.iloc[::-1], [ACCURACY]).sort_index()
    assert turned.equals(with_gains(frame, [ACCURACY]))


def test_a_gain_without_a_vanilla_run_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"one vanilla run of v on d, got 0\. Add its folder"):
        with_gains(runs(insert=[0.7]), [ACCURACY])


def test_holm_equals_its_definition_by_closed_testing():
    """Against Bonferroni's test of every set of hypotheses that a hypothesis is in."""
    p = [0.04, 0.001, 0.3, 0.04, 0.013]
    sets = [rows for size in range(1, 6) for rows in itertools.combinations(range(5), size)]
    for one, found in enumerate(holm(p)):
        worst = max(len(rows) * min(p[row] for row in rows) for rows in sets if one in rows)
        assert found == pytest.approx(min(1, worst))
    assert holm([]).size == 0
