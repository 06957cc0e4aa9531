"""Table D of Pang et al.: where the block is inserted, and two blocks instead of one."""

from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.factors import FROZEN
from rectify.analysis.findings import Finding, list_gains
from rectify.analysis.inserted import inserted_table
from rectify.analysis.published import LANGUAGE
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table D: places and number of blocks"
SHOWS = ("table",)
PLACES = {
    (31, "early"): "LLaMA, head",
    (31, "middle"): "LLaMA, middle",
    (31, "end"): "LLaMA, tail",
    ("30-31", "end"): "two LLaMA blocks, tail",
}
"""What is printed, by layer and position."""


class Settings(TargetSettings):
    """The experiments that are shown: insertions at several places, of one or two layers."""

    kind: Literal["pang_table_d"] = "pang_table_d"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by place of insertion and by the layers that are inserted."""
    return inserted_table("pang_table_d", results, _named)


def _named(run: Series) -> str | None:
    is_theirs = (run["language_title"], run["control"]) == (LANGUAGE, FROZEN)
    return PLACES.get((run["layer"], run["position"])) if is_theirs else None


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return the gain of each place."""
    claim = "The end is the best place, and two layers are better than one"
    return [Finding(claim, list_gains(cells, "row"))]
