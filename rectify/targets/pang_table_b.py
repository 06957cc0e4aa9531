"""Table B of Pang et al.: what stands in place of the pretrained block, task by task."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import controls_table, of_frozen
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table B: the pretrained weights, on every task"
SHOWS = ("table",)
VANILLA = "vanilla"


class Settings(TargetSettings):
    """The experiments that are shown: controls, on data sets of any tasks."""

    kind: Literal["pang_table_b"] = "pang_table_b"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return the scores of every data set, with the frozen block, an MLP, and a random block.

    Each data set has columns for the metrics of its task.
    """
    return controls_table("pang_table_b", results, VANILLA)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return on how many tasks the pretrained layer gains."""
    claim = "The pretrained weights help on every task"
    return [Finding(claim, count_gains(of_frozen(cells)))]
