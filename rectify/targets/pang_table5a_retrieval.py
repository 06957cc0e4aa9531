"""Table 5a of Pang et al.: images found by captions, and captions by images."""

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

TITLE = "Pang, Table 5a: image-text retrieval"
SHOWS = ("table",)
KS = (1, 5, 10)
IMAGES = tuple(Metric(f"recall_at_{k}", f"IR@{k}") for k in KS)
"""Images found by captions: all that Pang et al. print."""
TEXTS = tuple(Metric(f"recall_at_{k}_texts", f"TR@{k}", is_printed=False) for k in KS)
"""Captions found by images."""
ERROR = "sampling error of one number"


class Settings(TargetSettings):
    """The experiments that are shown: insertions, on sets of captioned images."""

    kind: Literal["pang_table5a_retrieval"] = "pang_table5a_retrieval"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return recall both ways, and at last the sampling error of that of images."""
    cells = inserted_table("pang_table5a_retrieval", results, scores_of=_recalls)
    return pd.concat([cells, *_errors(cells, results)], ignore_index=True)


def _recalls(_runs: DataFrame) -> list[Metric]:
    return [*IMAGES, *TEXTS]


def _errors(cells: DataFrame, results: Results) -> list[DataFrame]:
    """Return the standard error of each recall of images of the model alone, over captions."""
    heads = cells[cells["kind"] == "value"].drop_duplicates("column_index")
    runs, found = results.runs, []
    alone = runs[runs["variant"] == "vanilla"]
    for metric in IMAGES:
        for _, head in heads[heads["column"] == metric.label].iterrows():
            of_set = alone[alone["data_title"] == head["group"]]
            first = of_set.iloc[0]
            captions = len(results.items(first["run"], int(first["seed"])))
            share = of_set[metric.name].mean()
            error = 100 * math.sqrt(share * (1 - share) / captions)
            nothing = dict.fromkeys(("std", "low", "high", "paper", "difference"), math.nan)
            row = {"row": ERROR, "row_index": cells["row_index"].max() + 1, "mean": error}
            row["run"] = first["run"]
            own = {**head.to_dict(), **row, **nothing, "paper_row": "-", "paper_column": "-"}
            found.append(DataFrame([own], columns=cells.columns))
    return found


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return for how many recalls it gains."""
    claim = "It helps to find images by their captions"
    of_images = cells[cells["column"].isin([metric.label for metric in IMAGES])]
    return [Finding(claim, count_gains(of_frozen(of_images), first_columns_only=False))]
