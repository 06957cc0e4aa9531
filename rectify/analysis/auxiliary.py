"""Tables with a row for each ViT without and one with auxiliary training, per data set."""

from collections.abc import Callable

from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.factors import models, titles
from rectify.analysis.metrics import Metric
from rectify.analysis.published import Label, labels, match_names, printed

AUXILIARY = " +AUX"  # ends the name of a row with auxiliary training, as in the paper
NOT_PRINTED = ("corruption_error",)
"""Metrics whose columns the paper does not have."""


def auxiliary_table(
    target: str, results: Results, metrics_of: Callable[[DataFrame], list[Metric]]
) -> DataFrame:
    """Return metrics of each data set (columns) with and without auxiliary training (rows).

    Args:
        target: Name of the table.
        results: Its runs.
        metrics_of: Returns the metrics that are shown of the runs of one data set.

    Raises:
        ValueError: If there are no runs with auxiliary training.
    """
    runs = results.runs[results.runs["variant"].isin(["vanilla", "auxiliary"])]
    treated = runs[runs["variant"] == "auxiliary"]
    check_some(treated, target, "runs of variant auxiliary")
    theirs = printed(target)
    places = [
        (Label(metric.label, title), metric, data)
        for data, title in titles(treated, "data", results.order).items()
        for metric in metrics_of(runs[runs["data"] == data])
    ]
    compared = [label for label, metric, _ in places if metric.name not in NOT_PRINTED]
    columns_there = match_names(compared, theirs.columns)
    columns = [
        ColumnSpec(label.name, (metric,), {"data": data}, label.group, columns_there.get(label))
        for label, metric, data in places
    ]
    visions = models(treated, "vision")
    without = [row for row in theirs.rows if Label(f"{row.name}{AUXILIARY}") in theirs.rows]
    rows_there = match_names(labels(visions.values()), without)
    rows = [
        RowSpec(
            f"{title}{suffix}",
            {"vision": vision, "variant": variant},
            row_there and Label(f"{row_there.name}{suffix}"),
        )
        for vision, title in visions.items()
        for row_there in (rows_there[Label(title)],)
        for variant, suffix in (("vanilla", ""), ("auxiliary", AUXILIARY))
    ]
    return fill(TableSpec(target, rows, columns, theirs), runs)
