"""Table C of Pang et al.: the last block of language models of growing size."""

from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.factors import FROZEN
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.inserted import inserted_table
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table C: size of the language model"
SHOWS = ("table",)
LAST = {"OPT-125M": 11, "OPT-350M": 23, "OPT-1.3B": 23, "OPT-2.7B": 31, "OPT-6.7B": 31}
"""Last layers of the models that are printed."""


class Settings(TargetSettings):
    """The experiments that are shown: insertions of several language models."""

    kind: Literal["pang_table_c"] = "pang_table_c"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by language model, and its gain over the ViT alone."""
    return inserted_table("pang_table_c", results, _named)


def _named(run: Series) -> str | None:
    language = run["language_title"]
    place = (run["control"], run["layer"], run["position"])
    return language if place == (FROZEN, LAST.get(language), "end") else None


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gain of each language model."""
    claim = "Language models help from some size on"
    return [Finding(claim, list_gains(cells, "row"))]
