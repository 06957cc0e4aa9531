"""Tables of what is inserted: a row for each ViT alone and for each thing in it, with its gain.

Pang et al. (2024) print such tables. A row of theirs is compared with one of ours if a target says
which, and a column if its data set has their title; gains are next to those of their values.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis.cells import NO_RUN, ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.coherence import with_gsnr_gains
from rectify.analysis.collect import Results
from rectify.analysis.factors import FROZEN, title, titles, values
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import Metric, coherence_gains, gsnr, scores
from rectify.analysis.printing import NO_CELL
from rectify.analysis.published import (
    GSNR,
    LANGUAGE,
    Label,
    Printed,
    match_names,
    printed,
    with_gains_over,
)
from rectify.controls import CONTROLS, INSERTED

ADDED = " +"  # in the name of a printed row, before what is inserted
SKIP = ", with a skip"  # behind what is inserted
PLACE = ["variant", "language", "control", "layer", "position"]
PRINTED_AS = {
    "frozen": "LLaMA",
    "mlp": "MLP",
    "tuned": "LLaMA, fine-tuned",
    "scratch": "random LLM",
}
"""What Pang et al. call it, by control."""

Scores = Callable[[DataFrame], list[Metric]]
Named = Callable[[Series], str | None]


def of_llama(run: Series, layers: Sequence[int] = (31,)) -> str | None:
    """Return what Pang et al. call a run's insertion, if it is theirs: LLaMA-7B, at the end."""
    is_theirs = run["language_title"] == LANGUAGE and run["position"] == "end"
    return PRINTED_AS.get(run["control"]) if is_theirs and run["layer"] in layers else None


class _Shown(NamedTuple):
    """What a table shows."""

    target: str
    results: Results
    runs: DataFrame
    """The vanilla runs and the insertions."""
    treated: DataFrame
    """The insertions alone."""
    sets: dict[str, str]
    """Name and title of each data set."""
    metrics: dict[str, list[Metric]]
    """By data set."""
    theirs: Printed


def inserted_table(
    target: str,
    results: Results,
    named: Named = of_llama,
    scores_of: Scores = scores,
    quoted: str | None = None,
    has_gsnr: bool = False,
) -> DataFrame:
    """Return the scores of each ViT alone and with each insertion, and the gains of these.

    Args:
        target: Name of the table.
        results: Its runs.
        named: Returns what Pang et al. call the insertion of a run; nothing if it is not theirs.
        scores_of: Returns the scores that are shown of the runs of one data set.
        quoted: A table of ``published.csv`` whose rows are added at the end: numbers that others
            have published, and none of ours.
        has_gsnr: Whether GSNR is shown of each set, with its gains at equal epoch and equal loss.

    Raises:
        ValueError: If there are no insertions, or two of them share a row.
    """
    shown = _shown(target, results, scores_of)
    columns = [
        column
        for name, label in shown.sets.items()
        for column in (
            *_columns(shown, name, label, {"data": name}),
            *(_coherence(shown, name, label) if has_gsnr else ()),
        )
    ]
    rows = []
    for vision, label in titles(shown.treated, "vision", results.order).items():
        rows.append(RowSpec(label, {"vision": vision, "variant": "vanilla"}, Label(label)))
        of_vision = shown.treated[shown.treated["vision"] == vision]
        for run in _insertions(of_vision, results.order):
            name = _theirs(run, named)
            rows.append(
                RowSpec(
                    f"{label}{_added(run, of_vision)}",
                    {"vision": vision, **run[PLACE].to_dict()},
                    name and Label(f"{label}{ADDED}{name}"),
                )
            )
    cells = _filled(shown, rows, columns)
    return cells if quoted is None else _with_quoted(cells, printed(quoted))


def _with_quoted(cells: DataFrame, quoted: Printed) -> DataFrame:
    """Return a table with further rows, whose numbers are where a column has name and set."""
    heads = cells[cells["kind"] == "value"].drop_duplicates("column_index")
    labels = {Label(head["column"], head["group"]): head for _, head in heads.iterrows()}
    there = match_names([*labels], quoted.columns)
    added, last = [], int(cells["row_index"].max())
    for row in quoted.rows:
        found = {label: quoted.cell(row, there[label]) for label in labels}
        last += any(found.values())
        added += [
            {
                **labels[label].to_dict(),
                "row_index": last,
                "row": row.name,
                "paper": cell.value,
                "paper_row": row.name,
                "paper_column": f"{cell.column}",
                "seeds": 0,
                "text": NO_CELL,
                "run": NO_RUN,
                **dict.fromkeys(("mean", "std", "low", "high", "difference"), math.nan),
            }
            for label, cell in found.items()
            if cell is not None
        ]
    types = cells.dtypes.to_dict()
    return pd.concat([cells, DataFrame(added, columns=cells.columns).astype(types)])


def with_floor(cells: DataFrame, row: str, floor: Callable[[Series], float | None]) -> DataFrame:
    """Return a table with a last row of what can be had without a model.

    Args:
        cells: Of ``inserted_table``.
        row: Its label.
        floor: From a cell of a column to the number of the row, in the same unit; None without.
    """
    heads = cells[cells["kind"] == "value"].drop_duplicates("column_index")
    found = heads.assign(mean=[floor(head) for _, head in heads.iterrows()]).dropna(subset="mean")
    nothing = dict.fromkeys(("std", "low", "high", "paper", "difference"), math.nan)
    place = {"row_index": cells["row_index"].max() + 1, "row": row}
    found["mean"] /= found["scale"]
    last = found.assign(**place, **nothing, paper_row="-", paper_column="-", run=NO_RUN)
    return pd.concat([cells, last], ignore_index=True)


def of_frozen(cells: DataFrame) -> DataFrame:
    """Return the cells of a table of insertions, or of controls, with the layer in its place."""
    alone = {row for row in cells["row"] if ADDED not in row}
    frozen = CONTROLS[FROZEN].title
    return cells[
        [
            row.removesuffix(SKIP) == frozen or (ADDED in row and row.partition(ADDED)[0] in alone)
            for row in cells["row"]
        ]
    ]


def controls_table(target: str, results: Results, vanilla: str) -> DataFrame:
    """Return the scores of each task (columns) without an insertion and with each control (rows).

    Args:
        target: Name of the table.
        results: Its runs: one model for each data set.
        vanilla: Label of the first row.

    Raises:
        ValueError: As ``inserted_table``.
    """
    shown = _shown(target, results, scores)
    treated = shown.treated
    columns = [
        column
        for name, label in shown.sets.items()
        for vision, model in titles(
            treated[treated["data"] == name], "vision", results.order
        ).items()
        for column in _columns(shown, name, f"{label}, {model}", {"data": name, "vision": vision})
    ]
    rows = [RowSpec(vanilla, {"variant": "vanilla"}, Label(vanilla))]
    for variant in values(treated, "variant"):
        of_variant = treated[treated["variant"] == variant]
        for control, label in titles(of_variant, "control").items():
            of_row = of_variant[of_variant["control"] == control]
            names = {_theirs(run, of_llama) for _, run in of_row.iterrows()}
            name = names.pop() if len(names) == 1 else None
            there = name and Label(f"{vanilla}{ADDED}{name}")
            skip = SKIP if variant == "residual" else ""
            rows.append(RowSpec(f"{label}{skip}", {"variant": variant, "control": control}, there))
    return _filled(shown, rows, columns)


def _shown(target: str, results: Results, scores_of: Scores) -> _Shown:
    runs = results.runs[results.runs["variant"].isin(["vanilla", *INSERTED])]
    treated = runs[runs["variant"] != "vanilla"]
    check_some(treated, target, f"runs of variant {' or '.join(INSERTED)}")
    sets = titles(treated, "data", results.order)
    metrics = {name: scores_of(runs[runs["data"] == name]) for name in sets}
    return _Shown(target, results, runs, treated, sets, metrics, printed(target))


def _theirs(run: Series, named: Named) -> str | None:
    """Return what Pang et al. call a run's insertion; none of theirs has a skip."""
    return named(run) if run["variant"] == "insert" else None


def _with_gains(theirs: Printed, columns: Sequence[ColumnSpec]) -> Printed:
    plain = {row: Label(row.name.partition(ADDED)[0]) for row in theirs.rows if ADDED in row.name}
    errors = {one.printed for one in columns if one.shows[0].better == "lower"}
    return with_gains_over(theirs, plain, errors)


def _columns(shown: _Shown, data: str, group: str, where: Mapping[str, str]) -> list[ColumnSpec]:
    metrics = shown.metrics[data]
    labels = [Label(metric.label, group) for metric in metrics]
    there = match_names(labels, shown.theirs.columns)
    return [
        ColumnSpec(label.name, metric.compared, where, group, there[label])
        for label, metric in zip(labels, metrics, strict=True)
    ]


def _coherence(shown: _Shown, data: str, group: str) -> list[ColumnSpec]:
    """Return the columns of GSNR, which Pang et al. do not have."""
    estimator = shown.results.estimator
    at_epoch, at_loss = coherence_gains(estimator)
    plain = gsnr(shown.runs[shown.runs["data"] == data], estimator)
    return [
        ColumnSpec(label, metrics, {"data": data}, group)
        for label, metrics in ((GSNR, (plain, at_epoch)), (at_loss.label, (at_loss,)))
    ]


def _insertions(treated: DataFrame, order: Mapping[str, Sequence[str]]) -> list[Series]:
    """Return one run for each insertion in a ViT, in the order of the factors."""
    distinct = treated.drop_duplicates(PLACE)
    ranks = {factor: values(distinct, factor, order).index for factor in PLACE}
    runs = [run for _, run in distinct.iterrows()]
    return sorted(runs, key=lambda run: [ranks[factor](run[factor]) for factor in PLACE])


def _added(run: Series, treated: DataFrame) -> str:
    """Return what is inserted, and the places in which the runs with its model differ."""
    model = f"{ADDED}{run['language_title']}"
    if run["control"] != FROZEN:
        several = treated["language"].nunique() > 1
        model = f", {CONTROLS[run['control']].title}{model if several else ''}"
    same = treated[treated["language"] == run["language"]]
    differ = [name for name in ("layer", "position") if same[name].nunique() > 1]
    skip = SKIP if run["variant"] == "residual" else ""
    return ", ".join([f"{model}{skip}", *(title(same, name, run[name]) for name in differ)])


def _filled(shown: _Shown, rows: Sequence[RowSpec], columns: Sequence[ColumnSpec]) -> DataFrame:
    metrics = list(dict.fromkeys(metric for of_set in shown.metrics.values() for metric in of_set))
    compared = with_comparisons(shown.runs, shown.results, metrics)
    if any(column.label == GSNR for column in columns):
        gradients = shown.results.gsnr
        compared = with_gsnr_gains(compared, gradients[gradients["run"].isin(compared["run"])])
    theirs = _with_gains(shown.theirs, columns)
    return fill(TableSpec(shown.target, rows, columns, theirs), compared)
