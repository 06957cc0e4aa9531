"""Table 3 of Pang et al.: clips, without and with a frozen block of either layer."""

from functools import partial
from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen, of_llama
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 3: clips"
SHOWS = ("table",)
LAYERS = (15, 31)  # of their released code, and of their text


class Settings(TargetSettings):
    """The experiments that are shown: insertions, of several layers perhaps."""

    kind: Literal["pang_table3"] = "pang_table3"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by ViT and layer; which one the printed numbers are of is not known."""
    return inserted_table("pang_table3", results, partial(of_llama, layers=LAYERS))


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many ViTs and layers gain."""
    claim = "It helps on clips as well"
    return [Finding(claim, count_gains(of_frozen(cells)))]
