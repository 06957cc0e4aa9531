"""Findings: counts and quotes of the cells, against counting by hand."""

import math

import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis.findings import (
    correlations,
    count_gains,
    count_positive,
    list_gains,
)
from rectify.results.declared import CELLS


def cells(*rows: tuple) -> DataFrame:
    """Return cells from (row, group, column, kind, mean, low, high)."""
    names = list(dict.fromkeys(row[0] for row in rows))
    columns = list(dict.fromkeys(row[1:3] for row in rows))
    units = {"gain": "points", "value": "%"}
    full = [
        (names.index(row), columns.index((group, column)), row, group, column, kind,
         units.get(kind, "-"), 1.0, mean, math.nan, low, high, 3, "too few runs", math.nan,
         math.nan, "-", "-", "-")
        for row, group, column, kind, mean, low, high in rows
    ]  # fmt: skip
    return DataFrame(full, columns=CELLS.names)


NONE = (math.nan, math.nan)
GAINS = cells(
    ("vanilla", "Set", "acc@1", "value", 70.0, *NONE),
    ("frozen", "Set", "acc@1", "value", 72.0, *NONE),
    ("frozen", "Set", "acc@1", "gain", 2.0, 1.0, 3.0),
    ("frozen", "Set", "acc@1", "item test", 0.001, *NONE),
    ("frozen", "Set", "acc@5", "gain", 9.0, 8.0, 10.0),
    ("random", "Set", "acc@1", "gain", -1.5, -2.0, -1.0),
    ("random", "Set", "acc@1", "item test", 0.2, *NONE),
    ("tuned", "Set", "acc@1", "gain", 0.5, -1.0, 2.0),
    ("tuned", "Set", "acc@1", "item test", 0.04, *NONE),
    ("tuned", "Other", "acc@1", "gain", -3.0, -4.0, -2.0),
    ("tuned", "Other", "acc@1", "item test", 0.01, *NONE),
)
RELATED = cells(
    ("GSNR", "equal epoch", "test gain", "value", 0.514, *NONE),
    ("GSNR", "equal epoch", "test gain", "p", 0.0123, *NONE),
    ("GSNR", "equal loss", "test gain", "value", math.nan, *NONE),
    ("GSNR", "equal loss", "test gain", "p", math.nan, *NONE),
)


def test_gains_of_the_first_column_of_each_group_are_counted() -> None:
    assert count_gains(GAINS) == (
        "2 of 4 gain, from -3.00 (tuned, Other, acc@1) to +2.00 (frozen, Set, acc@1) points; "
        "95 % interval over seeds above zero in 1, below zero in 2; "
        "over the test items 2 better and 1 worse with p < 0.05."
    )


def test_tests_after_holm_are_counted_next_to_the_raw_ones():
    tests = GAINS[GAINS["kind"] == "item test"]
    corrected = tests.assign(kind="item test, Holm", mean=[0.004, 0.2, 0.08, 0.03])
    found = count_gains(pd.concat([GAINS, corrected]))
    assert found.endswith("2 better and 1 worse with p < 0.05 (1 and 1 after Holm).")


def test_without_intervals_and_tests_there_is_only_the_count() -> None:
    one = GAINS[(GAINS["row"] == "random") & (GAINS["kind"] == "gain")]
    assert (
        count_gains(one.assign(low=math.nan)) == "0 of 1 gain: -1.50 (random, Set, acc@1) points."
    )
    assert count_gains(GAINS[GAINS["kind"] == "value"]) == "no gain was measured."


def test_gains_are_listed_by_row_or_column() -> None:
    first = GAINS[GAINS["group"] == "Set"]
    assert list_gains(first, "row") == (
        "frozen +2.00 [+1.00, +3.00]; random -1.50 [-2.00, -1.00]; tuned +0.50 [-1.00, +2.00] "
        "points."
    )
    one = GAINS[GAINS["row"] == "frozen"]
    assert (
        list_gains(one, "column")
        == "acc@1 +2.00 [+1.00, +3.00]; acc@5 +9.00 [+8.00, +10.00] points."
    )


def test_values_above_zero_are_counted_among_those_that_are_known() -> None:
    assert count_positive(Series([1.0, -1.0, 0.0, math.nan, 2.0])) == "2 of 4"


def test_correlations_are_quoted_or_it_is_said_why_there_is_none() -> None:
    columns = [("equal epoch", "test gain"), ("equal loss", "test gain")]
    assert correlations(RELATED, "GSNR", columns) == (
        "equal epoch: ρ = 0.51, p = 0.012; equal loss: too few runs"
    )
