"""Table 4: accuracy, robustness and GSNR with and without auxiliary training."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.auxiliary import auxiliary_table
from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.metrics import Metric, accuracies
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Table 4: images, shifts and video"
SHOWS = ("table",)
MCE = "corruption_error"
SHIFTS = (
    ("-C", "accuracy_c"),
    ("-C mCE", MCE),
    ("-A", "accuracy_a"),
    ("-SK", "accuracy_sk"),
    ("-R", "accuracy_r"),
)


class Settings(TargetSettings):
    """The experiments that are shown: auxiliary training on images and on video."""

    kind: Literal["table4"] = "table4"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy, robustness and GSNR with and without auxiliary training.

    The paper's number for ImageNet-C is mean accuracy; where all fifteen corruptions were
    evaluated, mCE (in percent of AlexNet's error) is next to it.
    """

    def scores(runs: DataFrame) -> list[Metric]:
        shifted = any(runs[name].notna().any() for _, name in SHIFTS if name in runs)
        return _shifts(runs) if shifted else accuracies(runs)

    return auxiliary_table("table4", results, scores)


def _shifts(runs: DataFrame) -> list[Metric]:
    """Return accuracy on the plain set and on those of its shifts that runs were evaluated on."""
    title = runs["data_title"].iloc[0]
    return [
        Metric(name, f"{title}{suffix}", better="lower" if name == MCE else "higher")
        for suffix, name in (("", "accuracy"), *SHIFTS)
        if name in runs
    ]


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many runs gain."""
    claim = "A second loss path through the frozen layer helps, with nothing added at test time"
    return [Finding(claim, count_gains(cells))]
