"""Table 5a of Pang et al.: images found by captions, and captions by images."""

import math
from typing import Literal

from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.inserted import inserted_table, of_frozen, with_floor
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
    return with_floor(cells, ERROR, lambda cell: _error(cell, results))


def _recalls(_runs: DataFrame) -> list[Metric]:
    return [*IMAGES, *TEXTS]


def _error(cell: Series, results: Results) -> float | None:
    """Return the standard error of a recall of images of the model alone, over captions."""
    metric = {one.label: one for one in IMAGES}.get(cell["column"])
    if metric is None:
        return None
    runs = results.runs
    alone = runs[(runs["variant"] == "vanilla") & (runs["data_title"] == cell["group"])]
    first, share = alone.iloc[0], alone[metric.name].mean()
    captions = len(results.items(first["run"], int(first["seed"])))
    return 100 * math.sqrt(share * (1 - share) / captions)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return for how many recalls it gains."""
    claim = "It helps to find images by their captions"
    of_images = cells[cells["column"].isin([metric.label for metric in IMAGES])]
    return [Finding(claim, count_gains(of_frozen(of_images), first_columns_only=False))]
