"""Table 4 of Pang et al.: forecasts without and with a frozen block, and what others reach."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 4: motion forecasting"
SHOWS = ("table",)
PUBLIC = "pang_table4_public"
"""Of ``published.csv``: numbers of public codes."""


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on sets of traffic scenes."""

    kind: Literal["pang_table4"] = "pang_table4"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return the benchmark's metrics; public models without a frozen block are the last rows."""
    return inserted_table("pang_table4", results, quoted=PUBLIC)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return in how many metrics the errors are less."""
    claim = "It helps to forecast motion"
    return [Finding(claim, count_gains(of_frozen(cells), first_columns_only=False))]
