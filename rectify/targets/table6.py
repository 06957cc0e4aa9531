"""Table 6: accuracy by first weight of the auxiliary loss."""

from typing import Literal

from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.factors import titles, values
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import accuracies
from rectify.analysis.published import LANGUAGE, Label, match_names, printed_for
from rectify.targets.contract import TargetSettings
from rectify.typed import Name, Several

TITLE = "Table 6: weight of the auxiliary loss"
SHOWS = ("table",)


class Settings(TargetSettings):
    """The experiments that are shown: auxiliary training with several weights."""

    kind: Literal["table6"] = "table6"
    reads: Several[Name]


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy by first weight of the auxiliary loss, and its gain over weight 0."""
    runs = results.runs[results.runs["variant"].isin(["vanilla", "auxiliary"])]
    check_some(runs, "table6", "runs of variant auxiliary")
    theirs = printed_for("table6", runs, language=LANGUAGE, vision="ViT-S")
    places = [
        (Label(metric.label, title), metric, data)
        for data, title in titles(runs, "data", results.order).items()
        for metric in accuracies(runs[runs["data"] == data])
    ]
    compared = with_comparisons(runs, results, [metric for _, metric, _ in places])
    columns_there = match_names([label for label, _, _ in places], theirs.columns)
    columns = [
        ColumnSpec(label.name, metric.compared, {"data": data}, label.group, columns_there[label])
        for label, metric, data in places
    ]
    weights = {weight: f"{weight:g}" for weight in values(runs, "lambda")}
    rows = [RowSpec(text, {"lambda": weight}, Label(text)) for weight, text in weights.items()]
    return fill(TableSpec("table6", rows, columns, theirs), compared)


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many runs gain."""
    return [Finding("So it does with any weight of that path", count_gains(cells))]
