"""Table 1 of Pang et al.: images, clean and under shift, without and with a frozen block."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen
from rectify.analysis.metrics import Metric
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 1: images and shifts"
SHOWS = ("table",)
SHIFTS = (
    Metric("accuracy", "clean"),
    Metric("accuracy_c", "-C"),
    Metric("corruption_error", "-C mCE", better="lower"),
    Metric("accuracy_a", "-A"),
    Metric("accuracy_sk", "-SK"),
    Metric("accuracy_r", "-R"),
)


class Settings(TargetSettings):
    """The experiments that are shown: insertions in ViTs of several sizes."""

    kind: Literal["pang_table1"] = "pang_table1"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy on the plain set and on those of its shifts that runs were evaluated on."""
    return inserted_table("pang_table1", results, scores_of=_shifts)


def _shifts(runs: DataFrame) -> list[Metric]:
    return [metric for metric in SHIFTS if metric.name in runs and runs[metric.name].notna().any()]


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many ViTs gain."""
    claim = "A frozen layer at the end of a ViT helps"
    return [Finding(claim, count_gains(of_frozen(cells)))]
