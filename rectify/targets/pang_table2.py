"""Table 2 of Pang et al.: point clouds, without and with a frozen block, and what others reach."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 2: point clouds"
SHOWS = ("table",)
PUBLIC = "pang_table2_public"
"""Of ``published.csv``: numbers of public codes, and of released weights."""


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on several sets of clouds."""

    kind: Literal["pang_table2"] = "pang_table2"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by set of clouds; public models without a frozen block are the last rows."""
    return inserted_table("pang_table2", results, quoted=PUBLIC)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return on how many sets it gains."""
    claim = "It helps on point clouds as well"
    return [Finding(claim, count_gains(of_frozen(cells)))]
