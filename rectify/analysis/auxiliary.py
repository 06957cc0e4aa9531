"""Tables with a row for each ViT without and one with auxiliary training, per data set."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.coherence import with_gsnr_gains
from rectify.analysis.collect import Results
from rectify.analysis.factors import titles
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import Metric, coherence_gains, gsnr
from rectify.analysis.published import (
    GSNR,
    LANGUAGE,
    Label,
    labels,
    match_names,
    printed_for,
    with_relative_gains,
)

AUXILIARY = " +AUX"  # ends the name of a row with auxiliary training, as in the paper
AS_PRINTED = "unnormalised"  # the estimator whose values have the size of the printed ones
NOT_PRINTED = ("corruption_error",)
"""Metrics whose columns the paper does not have."""


def auxiliary_table(
    target: str, results: Results, scores_of: Callable[[DataFrame], list[Metric]]
) -> DataFrame:
    """Return metrics of each data set (columns) with and without auxiliary training (rows).

    Scores have their gains over vanilla. GSNR follows: that of the shown estimator, with its gain
    in percent of vanilla; ``unnormalised``, which has the size of the printed values; and the gain
    at equal loss.

    Args:
        target: Name of the table.
        results: Its runs.
        scores_of: Returns the scores that are shown of the runs of one data set.

    Raises:
        ValueError: If there are no runs with auxiliary training.
    """
    runs = results.runs[results.runs["variant"].isin(["vanilla", "auxiliary"])]
    treated = runs[runs["variant"] == "auxiliary"]
    check_some(treated, target, "runs of variant auxiliary")
    scores = {data: scores_of(runs[runs["data"] == data]) for data in treated["data"].unique()}
    runs = with_comparisons(runs, results, [score for some in scores.values() for score in some])
    runs = with_gsnr_gains(runs, results.gsnr[results.gsnr["run"].isin(runs["run"])])
    theirs = with_relative_gains(printed_for(target, runs, language=LANGUAGE), AUXILIARY)
    places = [
        (Label(name, title), metrics, data)
        for data, title in titles(treated, "data", results.order).items()
        for name, metrics in _columns(runs[runs["data"] == data], scores[data], results.estimator)
    ]
    shared = [label for label, (first, *_), _ in places if first.name not in NOT_PRINTED]
    compared = list(dict.fromkeys(map(_printed_as, shared)))
    columns_there = match_names(compared, theirs.columns)
    columns = [
        ColumnSpec(
            label.name, metrics, {"data": data}, label.group, columns_there.get(_printed_as(label))
        )
        for label, metrics, data in places
    ]
    visions = titles(treated, "vision", results.order)
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


def _columns(
    runs: DataFrame, scores: list[Metric], estimator: str
) -> Iterator[tuple[str, tuple[Metric, ...]]]:
    """Give the columns of a data set, each with its name and what it shows."""
    for score in scores:
        yield score.label, score.compared
    at_epoch, at_loss = coherence_gains(estimator)
    shown = gsnr(runs, estimator)
    yield GSNR, (replace(shown, is_printed=estimator == AS_PRINTED), at_epoch)
    if estimator != AS_PRINTED:
        yield f"{GSNR}, {AS_PRINTED}", (gsnr(runs, AS_PRINTED),)
    yield at_loss.label, (at_loss,)


def _printed_as(label: Label) -> Label:
    """Return the paper's name of a column; it has one for GSNR."""
    return label._replace(name=GSNR) if label.name.startswith(GSNR) else label
