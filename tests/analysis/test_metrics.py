"""How a metric is shown: unit, power of ten, what is better; and which metrics runs have."""

import math

import pytest
from pandas import DataFrame, Series

from rectify.analysis.metrics import (
    ACCURACY,
    Metric,
    accuracies,
    gsnr,
    headline,
    metric_of,
    power_of_ten,
    power_of_thousand,
)


def runs(**columns: object) -> DataFrame:
    frame = {"task": "image_classification", "k": 5, "accuracy": [0.5, 0.6], **columns}
    return DataFrame(frame)


def test_a_share_is_shown_in_percent_and_its_gain_in_points() -> None:
    assert 0.7162 * ACCURACY.factor == pytest.approx(71.62)
    assert (ACCURACY.gain.unit, ACCURACY.gain.kind, ACCURACY.gain.factor) == ("points", "gain", 100)
    assert ACCURACY.gain.name == "gain_accuracy"


def test_the_gain_of_another_metric_has_its_unit_and_scale() -> None:
    metric = Metric("gsnr_plain", "GSNR", "1", 1e-5)
    assert (metric.gain.unit, metric.gain.scale) == ("1", 1e-5)
    assert 1.28e-5 * metric.gain.factor == pytest.approx(1.28)


@pytest.mark.parametrize(
    ("values", "power"), [([0.0123, 0.002], 1e-2), ([-345.0], 1e2), ([0.0], 1.0), ([math.nan], 1.0)]
)
def test_the_power_of_ten_is_that_of_the_largest(values: list[float], power: float) -> None:
    assert power_of_ten(Series(values)) == power


@pytest.mark.parametrize(("largest", "power"), [(22_050_664.0, 1e6), (999.0, 1.0), (0.0, 1.0)])
def test_costs_are_in_powers_of_a_thousand(largest: float, power: float) -> None:
    assert power_of_thousand(largest) == power
    assert power_of_thousand(math.nan) == 1.0


def test_the_second_accuracy_is_there_only_with_its_k() -> None:
    assert [metric.label for metric in accuracies(runs(k=3))] == ["acc@1", "acc@3"]
    assert accuracies(runs(k=1)) == [ACCURACY]


def test_gsnr_is_that_of_the_shown_estimator() -> None:
    metric = gsnr(runs(gsnr_debiased=[0.0013, 0.0012]), "debiased")
    assert (metric.name, metric.scale, metric.unit) == ("gsnr_debiased", 1e-3, "1")


def test_metrics_are_those_that_the_task_declares_and_the_runs_have() -> None:
    frame = runs(
        accuracy_topk=0.8, accuracy_c=0.3, corruption_error=math.nan, test_loss=1.5, main_loss=0.9
    )
    labels = {
        name: metric_of(name, frame, "plain").label
        for name in ("accuracy", "accuracy_topk", "accuracy_c", "test_loss", "main_loss")
    }
    assert labels == {
        "accuracy": "acc@1",
        "accuracy_topk": "acc@5",
        "accuracy_c": "acc@1, c",
        "test_loss": "test loss",
        "main_loss": "training loss",
    }
    assert metric_of("accuracy_c", frame, "plain").unit == "%"
    loss = metric_of("main_loss", frame, "plain")
    assert (loss.better, loss.unit, loss.name) == ("lower", "nats", "main_loss")


def test_the_first_metric_of_a_task_is_its_headline() -> None:
    assert headline(runs()) == ACCURACY
    assert metric_of("gain", runs(), "plain") == ACCURACY.gain


@pytest.mark.parametrize("name", ["acuracy", "corruption_error", "accuracy_c"])
def test_a_metric_that_no_run_has_is_an_error_with_the_nearest(name: str) -> None:
    frame = runs(corruption_error=math.nan)
    with pytest.raises(ValueError, match=f"that the runs have, got '{name}'") as error:
        metric_of(name, frame, "plain")
    assert "accuracy" in f"{error.value}"
