"""Table 5b of Pang et al., with the types of Table E: questions asked from a place in a room."""

from functools import partial
from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen, with_floor
from rectify.analysis.metrics import Metric
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Pang, Table 5b: questions asked from a place in a room"
SHOWS = ("table",)
NAME = "pang_table5b"
PUBLIC = "pang_table5b_public"
"""Of ``published.csv``: other models, and what others got of the public code."""
TYPES = ("what", "is", "how", "can", "which", "others")
FLOORS = {
    "question_alone": "question alone",
    "by_type": "one answer per type",
    "one_answer": "one answer",
}


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on sets of questions asked in rooms."""

    kind: Literal["pang_table5b"] = "pang_table5b"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return exact matches, also by type, and at last what can be had without the room."""
    cells = inserted_table(NAME, results, scores_of=_metrics, quoted=PUBLIC)
    runs = results.runs.drop_duplicates("data").set_index("data_title")
    for name, label in FLOORS.items():
        cells = with_floor(cells, label, partial(_floor, name, runs))
    return cells


def _floor(name: str, runs: DataFrame, cell: Series) -> float | None:
    """Return what never looking gives, where one answer is given."""
    names = {"EM@1": name} | {kind: f"{name}_{kind}" for kind in TYPES}
    metric = names.get(cell["column"])
    return None if metric is None else 100 * runs.loc[cell["group"], metric]


def _metrics(runs: DataFrame) -> list[Metric]:
    """Return what is shown of the runs of one set: of types, those that it has."""
    metrics = [Metric("em", "EM@1"), Metric("em_topk", f"EM@{int(runs['k'].iloc[0])}")]
    metrics += [Metric(f"em_{kind}", kind) for kind in TYPES]
    return [one for one in metrics if one.name in runs and runs[one.name].notna().any()]


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return for how many measures it gains."""
    claim = "It helps to answer questions asked from a place in a room"
    return [Finding(claim, count_gains(of_frozen(cells), first_columns_only=False))]
