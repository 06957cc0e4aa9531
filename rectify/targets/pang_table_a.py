"""Table A of Pang et al.: fine-tuning the block with a short and a long schedule."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.inserted import inserted_table
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table A: schedules"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: controls on a set with two schedules."""

    kind: Literal["pang_table_a"] = "pang_table_a"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy of each control, by schedule: each is a data set of its own."""
    return inserted_table("pang_table_a", results)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gain of each control and schedule."""
    claim = "So it does with either schedule"
    return [Finding(claim, list_gains(cells, "row"))]
