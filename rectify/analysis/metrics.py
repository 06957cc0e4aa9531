"""How a metric is shown: its label, its unit, the power of ten of its numbers, and what is better.

Shares are shown in percent and their differences in percentage points.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.published import GAIN, ITEM_TEST, RELATIVE_GAIN
from rectify.tasks import metrics_of
from rectify.tasks.entry import Metric as Declared
from rectify.typed import nearest

TEST_LOSS = "test_loss"  # the column of a task's metric ``loss``
TOP_K = "topk"
BEST = "best"  # of all epochs
AT_EQUAL_LOSS = "gsnr_at_equal_loss"
TRAINING_LOSSES = {"main_loss": "training loss", "train_loss": "total training loss"}
FACTORS = {"%": 100.0, "points": 100.0}
"""What a unit makes of a share; the numbers of other units stay as they are."""
DECIMALS = {"%": 2, "points": 2, "share": 4, "alignment": 4, "nats": 3}


@dataclass(frozen=True)
class Metric:
    """A column of a frame and how its numbers are shown: in ``scale`` times ``unit``."""

    name: str
    label: str
    unit: str = "%"
    scale: float = 1.0
    kind: str = "value"
    better: Literal["higher", "lower"] = "higher"
    is_printed: bool = True
    """Whether the paper's number of its row and column is the same quantity."""
    absent: str = ""
    """What a cell without any value says; such a cell is left out where it is empty."""
    is_floor: bool = False
    """Whether it is the same for every model, so that none gains."""

    @property
    def factor(self) -> float:
        """What a number of the frame is multiplied by."""
        return FACTORS.get(self.unit, 1.0) / self.scale

    @property
    def gain(self) -> "Metric":
        """The metric's gain over vanilla, positive where it is better."""
        unit = "points" if self.unit == "%" else self.unit
        return replace(self, name=f"gain_{self.name}", label="gain", unit=unit, kind=GAIN)

    @property
    def item_test(self) -> "Metric":
        """The p value of that gain over the test items."""
        return Metric(f"items_{self.name}", "p", "-", kind=ITEM_TEST, is_printed=False)

    @property
    def compared(self) -> tuple["Metric", ...]:
        """The metric, its gain, and the gain's p value, as they share a cell; a floor alone."""
        return (self,) if self.is_floor else (self, self.gain, self.item_test)


ACCURACY = Metric("accuracy", "acc@1")


def accuracies(runs: DataFrame) -> list[Metric]:
    """Return accuracy among the best class and, if the runs have it, among the k best."""
    k = int(runs["k"].iloc[0])
    return [ACCURACY, Metric("accuracy_topk", f"acc@{k}")] if k > 1 else [ACCURACY]


def scores(runs: DataFrame) -> list[Metric]:
    """Return the metrics of the runs' task but its loss, each also of the k best answers, if so."""
    known = _known(runs)
    declared = [one.name for task in runs["task"].unique() for one in metrics_of(task)]
    names = [name for one in dict.fromkeys(declared) for name in (one, f"{one}_{TOP_K}")]
    return [known[name] for name in names if name in known]


def gsnr(runs: DataFrame, estimator: str) -> Metric:
    """Return GSNR, in the power of ten that fits the runs."""
    name = f"gsnr_{estimator}"
    return Metric(name, "GSNR", "1", power_of_ten(runs[name]))


def coherence_gains(estimator: str) -> tuple[Metric, Metric]:
    """Return the relative gain over vanilla in GSNR, at equal epoch and at equal loss.

    They are the columns that ``with_gsnr_gains`` adds.
    """
    at_epoch = Metric(f"relative_epoch_{estimator}", "GSNR", kind=RELATIVE_GAIN)
    label = "GSNR gain at equal loss"
    return at_epoch, replace(
        at_epoch,
        name=f"relative_loss_{estimator}",
        label=label,
        is_printed=False,
        absent="no common loss",
    )


def headline(runs: DataFrame) -> Metric:
    """Return the first metric of the task of some runs.

    Raises:
        ValueError: If they are of tasks with different ones.
    """
    first = {task: metrics_of(task)[0] for task in runs["task"].unique()}
    if len(set(first.values())) != 1:
        raise ValueError(
            f"metric: tasks that are shown together must have the same first metric, got those of "
            f"{' and '.join(first)}. Name a metric."
        )
    return _shown(next(iter(first.values())), runs)


def metric_of(name: str, runs: DataFrame, estimator: str) -> Metric:
    """Return a metric by its name in a configuration.

    Args:
        name: A column of the runs, ``gsnr`` for that of the shown estimator,
            ``gsnr_at_equal_loss`` for its gain there, or ``gain`` for that of the task's first
            metric.
        runs: Rows of `Results.runs`.
        estimator: The estimator of GSNR that is shown.

    Raises:
        ValueError: If no run has this metric.
    """
    if name == "gsnr":
        return gsnr(runs, estimator)
    if name == AT_EQUAL_LOSS:
        return coherence_gains(estimator)[1]
    if name == "gain":
        return headline(runs).gain
    known = _known(runs)
    if name not in known:
        raise ValueError(
            f"metric: must be one that the runs have, got {name!r}. "
            f"{nearest(name, [*known, 'gsnr', AT_EQUAL_LOSS, 'gain'])}"
        )
    return known[name]


def power_of_ten(values: Series) -> float:
    """Return the power of ten of the largest of the values; 1 where there is none."""
    largest = values.abs().max()
    return float(f"1e{math.floor(math.log10(largest))}") if largest > 0 else 1.0


def power_of_thousand(largest: float) -> float:
    """Return the power of 1,000 that fits a number; 1 for zero and nothing."""
    return float(f"1e{3 * math.floor(math.log10(largest) / 3)}") if largest > 0 else 1.0


def _known(runs: DataFrame) -> dict[str, Metric]:
    """Return the metrics that runs have, by their column."""
    tasks = runs["task"].unique()
    declared = [_shown(one, runs) for one in dict.fromkeys(m for t in tasks for m in metrics_of(t))]
    known = [*declared, Metric("corruption_error", "mCE", better="lower")]
    for metric in declared:
        for column in runs:
            suffix = f"{column}".removeprefix(f"{metric.name}_")
            if suffix == TOP_K:
                k = int(runs["k"].max())
                label = f"acc@{k}" if metric.name == ACCURACY.name else f"{metric.label}, {k} best"
                known.append(replace(metric, name=column, label=label))
            elif suffix != column:
                known.append(replace(metric, name=column, label=f"{metric.label}, {suffix}"))
            elif column in TRAINING_LOSSES and metric.name == TEST_LOSS:
                known.append(replace(metric, name=column, label=TRAINING_LOSSES[column]))
    return {m.name: m for m in known if m.name in runs and runs[m.name].notna().any()}


def _shown(declared: Declared, runs: DataFrame) -> Metric:
    """Return how a metric that a task declares is shown."""
    name = TEST_LOSS if declared.name == "loss" else declared.name
    largest = runs[name].abs().max() if name in runs else 1.0
    return Metric(
        name,
        ACCURACY.label if name == ACCURACY.name else declared.title,
        "%" if declared.unit.startswith("share") else declared.unit,
        1.0 if declared.unit.startswith("share") or largest >= 0.1 else power_of_ten(runs[name]),
        better=declared.better,
        is_floor=declared.is_floor,
    )
