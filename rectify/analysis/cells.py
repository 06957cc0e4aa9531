"""A table as data: its rows, its columns, and how one fills the other.

A row and a column each say which runs they show; their cell holds the metrics of the runs that
both show, mean and standard deviation over seeds, next to the paper's number in the same unit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis.metrics import Metric
from rectify.analysis.published import (
    GAINS,
    HOLM,
    ITEM_TEST,
    NOTHING,
    REGRET,
    Label,
    Printed,
    PrintedCell,
)
from rectify.analysis.statistics import holm, interval, summary
from rectify.results.declared import CELLS

NO_RUN = "-"
BEST = "best"  # key of a frame's attributes: places of the best numbers
Value = str | float | int
Cell = dict[str, Value]


@dataclass(frozen=True)
class RowSpec:
    """A row: its label, the runs that it shows, the paper's row that it is compared with.

    A row that names metrics shows only those of its columns' metrics.
    """

    label: str
    where: Mapping[str, Value] = field(default_factory=dict)
    printed: Label | None = None
    shows: Sequence[Metric] | None = None


@dataclass(frozen=True)
class ColumnSpec:
    """A column: its label below a common head, the metrics and the runs that it shows."""

    label: str
    shows: Sequence[Metric]
    where: Mapping[str, Value] = field(default_factory=dict)
    group: str = ""
    printed: Label | None = None

    @property
    def full_label(self) -> Label:
        """The label with its common head, by which the paper's column is found."""
        return Label(self.label, self.group)


@dataclass(frozen=True)
class TableSpec:
    """A table: its name, its rows and columns in their order, and what the paper prints of it."""

    name: str
    rows: Sequence[RowSpec]
    columns: Sequence[ColumnSpec]
    printed: Printed = NOTHING


def fill(spec: TableSpec, frame: DataFrame) -> DataFrame:
    """Return the rows of a `CELLS` table.

    Tests over items, if there are several, are each followed by their p value after Holm.
    A cell without any value is left out, unless its metric says why there may be none.

    Args:
        spec: The table.
        frame: One row per run and seed, with a column for each factor and metric of the table.

    Raises:
        ValueError: If two runs would share a cell.
    """
    cells = DataFrame(list(_cells(spec, frame)), columns=CELLS.names)
    types = {column.name: column.dtype for column in CELLS.columns if column.dtype != "str"}
    cells = _with_corrections(cells.astype(types))
    cells.attrs[BEST] = _best(spec, frame)
    return cells


def best_places(cells: DataFrame) -> set[tuple[int, int]]:
    """Return the places, as (row, column), of the best number of each column, from `fill`.

    Only numbers that are compared with vanilla count, those of one data set apart from others.
    A frame that was read from a file has none.
    """
    return set(map(tuple, cells.attrs.get(BEST, [])))


def without_paper(cells: DataFrame) -> DataFrame:
    """Return cells without the papers' numbers, and without those that have no other."""
    cells = cells[cells["paper"].isna() | (cells["seeds"] > 0)]
    nothing = {"paper": math.nan, "difference": math.nan, "paper_row": "-", "paper_column": "-"}
    return cells.assign(**nothing)


def chosen(frame: DataFrame, where: Mapping[str, Value]) -> DataFrame:
    """Return the rows of a frame that have the given values."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return frame


def _cells(spec: TableSpec, frame: DataFrame) -> Iterator[Cell]:
    for row_index, row in enumerate(spec.rows):
        of_row = chosen(frame, row.where)
        for column_index, column in enumerate(spec.columns):
            runs = chosen(of_row, column.where)
            run = _only_run(spec.name, runs)
            for metric in column.shows:
                if row.shows is not None and metric not in row.shows:
                    continue
                values = runs[metric.name].astype(float).dropna()
                if len(values) or (len(runs) and metric.absent and _is_treated(runs)):
                    place = {"row_index": row_index, "column_index": column_index}
                    labels = {"row": row.label, "group": column.group, "column": column.label}
                    theirs = _comparable(spec.printed, row, column, metric)
                    numbers = _numbers(metric, values, theirs)
                    yield {**place, **labels, **numbers, "run": run}


def _best(spec: TableSpec, frame: DataFrame) -> list[list[int]]:
    """Return the places of `best_places`; none where all numbers are equal."""
    means: dict[tuple, dict[int, float]] = {}
    for row_index, row in enumerate(spec.rows):
        for column_index, column in enumerate(spec.columns):
            metric = next((one for one in column.shows if one.gain in column.shows), None)
            if metric is None or (row.shows is not None and metric not in row.shows):
                continue
            runs = chosen(chosen(frame, row.where), column.where).dropna(subset=metric.name)
            if len(runs):
                sign = 1 if metric.better == "higher" else -1
                place = (column_index, *(runs["data"].unique() if "data" in runs else ()))
                means.setdefault(place, {})[row_index] = sign * runs[metric.name].mean()
    return [
        [row, place[0]]
        for place, column in means.items()
        for row, mean in column.items()
        if mean == max(column.values()) > min(column.values())
    ]


def _with_corrections(cells: DataFrame) -> DataFrame:
    tests = cells[cells["kind"] == ITEM_TEST]
    if len(tests) < 2:
        return cells
    corrected = tests.assign(kind=HOLM, mean=holm(tests["mean"]))
    return pd.concat([cells, corrected]).sort_index(kind="stable", ignore_index=True)


def _comparable(
    printed: Printed, row: RowSpec, column: ColumnSpec, metric: Metric
) -> PrintedCell | None:
    """Return the printed cell of a place, if it has the metric's unit: stand-ins may differ."""
    theirs = printed.cell(row.printed, column.printed, metric.kind)
    is_same = metric.is_printed and theirs is not None and theirs.unit == metric.unit
    return theirs if is_same else None


def _numbers(metric: Metric, values: Series, theirs: PrintedCell | None) -> Cell:
    numbers = values * metric.factor
    mean, std, seeds = summary(numbers) if len(numbers) else (math.nan, None, 0)
    ends = interval(numbers) if metric.kind in (*GAINS, REGRET) and seeds else None
    low, high = ends or (math.nan, math.nan)
    paper = math.nan if theirs is None else theirs.value * (theirs.scale / metric.scale)
    return {
        "kind": metric.kind,
        "unit": metric.unit,
        "scale": metric.scale,
        "mean": mean,
        "std": math.nan if std is None or metric.kind == ITEM_TEST else std,
        "low": low,
        "high": high,
        "seeds": seeds,
        "text": "-" if seeds else metric.absent,
        "paper": paper,
        "difference": mean - paper,
        "paper_row": f"{theirs.row}" if theirs else "-",
        "paper_column": f"{theirs.column}" if theirs else "-",
    }


def _is_treated(runs: DataFrame) -> bool:
    """Whether no row is of a vanilla run, which has no gains."""
    return "variant" not in runs or bool((runs["variant"] != "vanilla").all())


def _only_run(table: str, runs: DataFrame) -> str:
    """Return the name of the run that a cell shows; - of rows that are no runs."""
    names = list(runs["run"].unique()) if "run" in runs else []
    if len(names) > 1:
        raise ValueError(
            f"{table}: a cell must show one run, got {' and '.join(names)}. "
            "Leave one of them out, or name the factor in which they differ."
        )
    return names[0] if names else NO_RUN
