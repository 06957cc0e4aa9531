"""Any runs in rows and columns: which factors they have, and where each run is shown."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, Value, chosen
from rectify.analysis.factors import FACTORS, title, values
from rectify.analysis.metrics import Metric
from rectify.controls import INSERTED

OF_A_LAYER = ["control", "language", "layer", "position"]  # factors that no vanilla run has

Order = Mapping[str, Sequence[str]]


class Layout(NamedTuple):
    """The factors of the rows and those of the columns."""

    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()


def comparable(runs: DataFrame) -> DataFrame:
    """Return runs without the values of factors that mean nothing for their variant."""
    runs = runs.astype(dict.fromkeys(OF_A_LAYER, object))
    runs.loc[runs["variant"] == "vanilla", OF_A_LAYER] = None
    runs.loc[runs["variant"].isin(INSERTED), "lambda"] = np.nan
    return runs


def layout_of(
    runs: DataFrame, rows: tuple[str, ...] | None, columns: tuple[str, ...] | None
) -> Layout:
    """Return the factors of rows and columns: those that are named, or else those that vary.

    If neither is named, the last factor that varies gives the columns and the others the rows;
    a single one gives the rows.

    Args:
        runs: Runs whose factors are compared; vanilla runs only if there are no others.
        rows: Factors for the rows, if some are named.
        columns: Factors for the columns, likewise.
    """
    named = (*(rows or ()), *(columns or ()))
    free = tuple(name for name in FACTORS if runs[name].nunique() > 1 and name not in named)
    if rows is None and columns is None:
        rows, columns = (free[:-1], free[-1:]) if len(free) > 1 else (free, ())
    elif rows is None:
        rows = free
    elif columns is None:
        columns = free
    single = next(name for name in FACTORS if name not in (columns or ()))
    return Layout(rows or (single,), columns or ())


def shown_runs(runs: DataFrame, layout: Layout) -> DataFrame:
    """Return the runs that a layout has a place for: vanilla ones only where a factor names them.

    Raises:
        ValueError: If a factor that varies is in neither rows nor columns, or no run has one.
    """
    treated = runs[runs["variant"] != "vanilla"]
    names = [*layout.rows, *layout.columns]
    shown = runs if {"variant", "lambda"} & set(names) or treated.empty else treated
    for name in names:
        if shown[name].isna().all():
            raise ValueError(
                f"grid: a factor must be one that the experiment has, got {name}. "
                "Take it out of rows and columns."
            )
    for _, together in shown.groupby(names, dropna=False):
        for name in FACTORS:
            if together[name].nunique(dropna=False) > 1:
                raise ValueError(
                    f"grid: every factor that varies must be in rows or columns, got {name} in "
                    "neither. Add it to one of them."
                )
    return shown


def spec_of(runs: DataFrame, layout: Layout, metrics: Sequence[Metric], order: Order) -> TableSpec:
    """Return the table of some runs; rows and columns without any run are left out.

    Raises:
        ValueError: If a run has no cell.
    """
    places = list(_combinations(runs, layout.columns, order))
    columns = [
        ColumnSpec(
            _text(runs, where) or name_of(metric),
            metric.compared if metric.kind == "value" else (metric,),
            where,
            group=name_of(metric) if where else "",
        )
        for metric in metrics
        for where in places
        if len(chosen(runs, where))
    ]
    rows = [
        RowSpec(_text(runs, where), where)
        for where in _combinations(runs, layout.rows, order)
        if any(len(chosen(runs, {**where, **column.where})) for column in columns)
    ]
    wheres = [{**row.where, **column.where} for row in rows for column in columns]
    shown = {index for where in wheres for index in chosen(runs, where).index}
    lost = runs[~runs.index.isin(shown) & (runs["variant"] != "vanilla")]
    if len(lost):
        raise ValueError(
            f"grid: every run must have a cell, got none for {lost['run'].iloc[0]}. "
            "Name factors in rows and columns that it has."
        )
    return TableSpec("grid", rows, columns)


def name_of(metric: Metric) -> str:
    """Return a metric's label with its unit, if it has one."""
    return metric.label if metric.unit == "1" else f"{metric.label} ({metric.unit})"


def _combinations(
    runs: DataFrame, names: Sequence[str], order: Order
) -> Iterable[dict[str, Value]]:
    """Yield the values of some factors in every combination, in their order."""
    for combination in itertools.product(*(values(runs, name, order) for name in names)):
        yield dict(zip(names, combination, strict=True))


def _text(runs: DataFrame, where: Mapping[str, Value]) -> str:
    return ", ".join(title(runs, name, value) for name, value in where.items())
