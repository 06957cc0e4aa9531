"""Table 6 of Pang et al.: is it the capacity, and should the block be frozen?"""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.inserted import inserted_table
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 6: capacity and fine-tuning"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: controls on one data set."""

    kind: Literal["pang_table6"] = "pang_table6"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy with the frozen block, an MLP in its place, and the block trained along."""
    return inserted_table("pang_table6", results)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gain of each control."""
    claim = "A frozen layer helps more than an MLP of the adapters' size, or than training it"
    return [Finding(claim, list_gains(cells, "row"))]
