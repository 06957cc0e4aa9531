"""Table 5: accuracy and GSNR on two data sets with and without auxiliary training."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.auxiliary import auxiliary_table
from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.metrics import accuracies
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Table 5: further data sets"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: auxiliary training."""

    kind: Literal["table5"] = "table5"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy and GSNR of each data set with and without auxiliary training."""
    return auxiliary_table("table5", results, accuracies)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many runs gain."""
    return [Finding("So it does on further data sets", count_gains(cells))]
