import math

import pytest
from pandas import DataFrame

from rectify.analysis.robustness import ALEXNET, mean_corruption_error
from rectify.data.published import CORRUPTIONS


def evaluation(accuracy) -> DataFrame:
    """Return the rows of all corruptions, with an accuracy by name and severity."""
    rows = [
        ("c", name, severity, accuracy(name, severity))
        for name in ALEXNET
        for severity in range(1, 6)
    ]
    rows += [("none", "-", 0, 0.9), ("a", "-", 0, 0.1)]
    return DataFrame(rows, columns=["shift", "condition", "severity", "accuracy_top1"])


def test_alexnet_itself_has_error_one():
    rows = evaluation(lambda name, severity: 1 - ALEXNET[name] + 0.01 * (severity - 3))
    assert mean_corruption_error(rows) == pytest.approx(1.0)


def test_a_model_without_errors_has_error_zero():
    assert mean_corruption_error(evaluation(lambda name, severity: 1.0)) == 0.0


def test_it_is_the_mean_of_ratios_and_not_the_ratio_of_means():
    rows = evaluation(lambda name, severity: 0.5 + 0.03 * severity * (name < "g"))
    by_hand = 0.0
    for name, theirs in ALEXNET.items():
        errors = [0.5 - 0.03 * severity * (name < "g") for severity in range(1, 6)]
        by_hand += sum(errors) / 5 / theirs / 15
    assert mean_corruption_error(rows) == pytest.approx(by_hand)
    assert by_hand != pytest.approx(
        (1 - rows["accuracy_top1"][:75].mean()) * 15 / sum(ALEXNET.values())
    )


def test_other_corruptions_have_none():
    rows = evaluation(lambda name, severity: 0.5)
    assert math.isnan(mean_corruption_error(rows[rows["condition"] != "fog"]))
    assert math.isnan(mean_corruption_error(rows[rows["shift"] != "c"]))
    assert set(ALEXNET) == set(CORRUPTIONS)
