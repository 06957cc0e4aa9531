"""Table 5a of Pang et al.: answers to questions about images, without and with a frozen block."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen, with_floor
from rectify.analysis.metrics import Metric
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 5a: visual question answering"
SHOWS = ("table",)
NAME = "pang_table5a"
KINDS = (
    Metric("vqa", "overall"),
    Metric("vqa_yes-no", "yes/no"),
    Metric("vqa_number", "number"),
    Metric("vqa_other", "other"),
)
FLOOR = "question alone"


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on sets of questions about images."""

    kind: Literal["pang_table5a"] = "pang_table5a"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return VQA accuracy by kind of answer, and at last what can be had without the image.

    The printed numbers are of a test set whose answers are not public: rows of their own.
    """
    cells = inserted_table(NAME, results, scores_of=_kinds, quoted=NAME)
    runs = results.runs.drop_duplicates("data").set_index("data_title")
    names = {one.label: one.name.replace("vqa", "question_alone") for one in KINDS}
    return with_floor(cells, FLOOR, lambda c: 100 * runs.loc[c["group"], names[c["column"]]])


def _kinds(runs: DataFrame) -> list[Metric]:
    return [metric for metric in KINDS if metric.name in runs and runs[metric.name].notna().any()]


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return for how many kinds of answers accuracy gains."""
    claim = "It helps to answer questions about images"
    return [Finding(claim, count_gains(of_frozen(cells), first_columns_only=False))]
