"""mCE: AlexNet has 1, no errors are 0, and it is a mean of ratios."""

import math
from collections.abc import Callable

import pytest
from pandas import DataFrame

from rectify.analysis.robustness import ALEXNET, mean_corruption_error
from rectify.tasks.image_classification.readers.imagenet import CORRUPTIONS


def scores(accuracy: Callable[[str, int], float]) -> DataFrame:
    """Return the scores of all corruptions, with an accuracy by name and severity."""
    rows = [
        ("c", f"{name}/{severity}", metric, k, value)
        for name in ALEXNET
        for severity in range(1, 6)
        for metric, k, value in (
            ("accuracy", 1, accuracy(name, severity)), ("accuracy", 5, 1.0), ("loss", 0, 9.0),
        )
    ]  # fmt: skip
    rows += [("test", "-", "accuracy", 1, 0.9), ("a", "-", "accuracy", 1, 0.1)]
    return DataFrame(rows, columns=["set", "group", "metric", "k", "value"])


def test_alexnet_itself_has_error_one() -> None:
    rows = scores(lambda name, severity: 1 - ALEXNET[name] + 0.01 * (severity - 3))
    assert mean_corruption_error(rows) == pytest.approx(1.0)


def test_a_model_without_errors_has_error_zero() -> None:
    assert mean_corruption_error(scores(lambda name, severity: 1.0)) == 0.0


def test_it_is_the_mean_of_ratios_and_not_the_ratio_of_means() -> None:
    rows = scores(lambda name, severity: 0.5 + 0.03 * severity * (name < "g"))
    by_hand = 0.0
    for name, theirs in ALEXNET.items():
        errors = [0.5 - 0.03 * severity * (name < "g") for severity in range(1, 6)]
        by_hand += sum(errors) / 5 / theirs / 15
    assert mean_corruption_error(rows) == pytest.approx(by_hand)
    plain = rows[(rows["set"] == "c") & (rows["metric"] == "accuracy") & (rows["k"] == 1)]
    assert by_hand != pytest.approx((1 - plain["value"].mean()) * 15 / sum(ALEXNET.values()))


def test_other_corruptions_have_none() -> None:
    rows = scores(lambda name, severity: 0.5)
    assert math.isnan(mean_corruption_error(rows[~rows["group"].str.startswith("fog/")]))
    assert math.isnan(mean_corruption_error(rows[rows["set"] != "c"]))
    assert set(ALEXNET) == set(CORRUPTIONS)
