"""Table 5b of Pang et al., with the types of Table E: questions asked from a place in a room."""

import math
from typing import Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen
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
    for name, label in FLOORS.items():
        cells = _with_floor(cells, results, name, label)
    return cells


def _metrics(runs: DataFrame) -> list[Metric]:
    """Return what is shown of the runs of one set: of types, those that it has."""
    metrics = [Metric("em", "EM@1"), Metric("em_topk", f"EM@{int(runs['k'].iloc[0])}")]
    metrics += [Metric(f"em_{kind}", kind) for kind in TYPES]
    return [one for one in metrics if one.name in runs and runs[one.name].notna().any()]


def _with_floor(cells: DataFrame, results: Results, name: str, label: str) -> DataFrame:
    """Return the table with a row of what never looking gives, where one answer is given."""
    heads = cells[cells["kind"] == "value"].drop_duplicates("column_index")
    heads = heads[heads["column"].isin(["EM@1", *TYPES])]
    runs = results.runs.drop_duplicates("data").set_index("data_title")
    names = {"EM@1": name} | {kind: f"{name}_{kind}" for kind in TYPES}
    floors = [100 * runs.loc[head["group"], names[head["column"]]] for _, head in heads.iterrows()]
    nothing = dict.fromkeys(("std", "low", "high", "paper", "difference"), math.nan)
    row = {"row_index": cells["row_index"].max() + 1, "row": label, "mean": floors, **nothing}
    floor = heads.assign(**row, paper_row="-", paper_column="-")
    return pd.concat([cells, floor], ignore_index=True)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return for how many measures it gains."""
    claim = "It helps to answer questions asked from a place in a room"
    return [Finding(claim, count_gains(of_frozen(cells), first_columns_only=False))]
