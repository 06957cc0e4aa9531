"""Every number that the papers print, and with which of their cells one of ours is compared.

``targets/published.csv`` holds the printed cells digit by digit, each with its source. Where a
paper prints a bare ``+AUX`` under a model, the row there carries the model's name as well. A
printed number is next to ours only where model and data are the same: nothing is matched by rank.
"""

import csv
import functools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

from pandas import DataFrame

SAME_SIZE = 1.04  # a factor: sizes are printed with one or two digits
GSNR = "GSNR"  # the name of its columns
GAINS = GAIN, RELATIVE_GAIN = ("gain", "relative gain")  # kinds, over vanilla: in its unit, in %
P, ITEM_TEST = "p", "item test"  # kinds of p value: of a correlation, of a gain over the test items
HOLM = "item test, Holm"  # the latter, corrected for the number of them in the table
REGRET = "regret"  # a kind: what the best gains more
DIFFERENCE = "difference"  # a kind: between models, not from a training
LANGUAGE = "LLaMA-7B"  # the model of both papers, which hardly a label of a table names
SHORT = "ImageNet, 100 epochs"  # the data and schedule of Pang et al.'s ablations


class Label(NamedTuple):
    """A row or column by its label; columns may share a common head, their group."""

    name: str
    group: str = ""

    def __str__(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name


class PrintedCell(NamedTuple):
    """One printed number, in ``scale`` times ``unit``."""

    target: str
    row: Label
    column: Label
    kind: str
    value: float
    unit: str
    scale: float


class Printed(NamedTuple):
    """The printed cells of one table, in its order."""

    cells: tuple[PrintedCell, ...] = ()

    @property
    def rows(self) -> list[Label]:
        """Row labels, from the top."""
        return list(dict.fromkeys(cell.row for cell in self.cells))

    @property
    def columns(self) -> list[Label]:
        """Column labels, from the left."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    def cell(
        self, row: Label | None, column: Label | None, kind: str = "value"
    ) -> PrintedCell | None:
        """Return a cell, or nothing where the paper has no such row, column or kind."""
        place = (row, column, kind)
        matches = (cell for cell in self.cells if (cell.row, cell.column, cell.kind) == place)
        return next(matches, None)


NOTHING = Printed()


def printed(target: str) -> Printed:
    """Return what the paper prints of a table; nothing of a table that it does not have."""
    return Printed(tuple(cell for cell in every_cell() if cell.target == target))


def printed_for(target: str, runs: DataFrame, **titles: str) -> Printed:
    """Return what the paper prints of a table, if all runs are of its models and data.

    Args:
        target: Name of the table.
        runs: Rows of `Results.runs`; those without a language model have none that could differ.
        titles: Title of the paper's ``data``, ``vision`` or ``language`` where no label names it.
    """
    same = all(
        {_key(title) for title in runs[f"{factor}_title"].dropna()} <= {_key(theirs)}
        for factor, theirs in titles.items()
    )
    return printed(target) if same else NOTHING


def with_gains_over(
    table: Printed, plain: Mapping[Label, Label], errors: Collection[Label | None] = ()
) -> Printed:
    """Return a table with what its rows gain over others, from its printed values.

    Args:
        table: Values as they are printed.
        plain: For each row that has a gain, the one over which.
        errors: Columns in which less is better, so that less is a gain.
    """
    derived = []
    for cell in table.cells:
        base = table.cell(plain.get(cell.row), cell.column)
        if base is not None:
            unit = "points" if cell.unit == "%" else cell.unit
            more = cell.value - base.value
            gain = -more if cell.column in errors else more
            derived.append(cell._replace(kind=GAIN, value=gain, unit=unit))
    return Printed((*table.cells, *derived))


def with_relative_gains(table: Printed, suffix: str) -> Printed:
    """Return a table with what GSNR gains in rows that end with ``suffix``, in percent."""
    derived = []
    for cell in table.cells:
        plain = Label(cell.row.name.removesuffix(suffix))
        base = table.cell(plain, cell.column)
        if cell.column.name == GSNR and plain != cell.row and base is not None:
            gain = 100 * (cell.value * cell.scale / (base.value * base.scale) - 1)
            derived.append(cell._replace(kind=RELATIVE_GAIN, value=gain, unit="%", scale=1.0))
    return Printed((*table.cells, *derived))


@functools.cache
def every_cell() -> tuple[PrintedCell, ...]:
    """Return all printed cells, table after table."""
    text = (resources.files("rectify.targets") / "published.csv").read_text(encoding="utf-8")
    return tuple(
        PrintedCell(
            row["target"],
            Label(row["row"]),
            Label(row["column"], row["group"]),
            row["kind"],
            float(row["value"]),
            row["unit"],
            float(row["scale"]),
        )
        for row in csv.DictReader(text.splitlines())
    )


def match_names(ours: Sequence[Label], theirs: Sequence[Label]) -> dict[Label, Label | None]:
    """Return for each label of ours the printed one of the same name, whatever the order.

    The others have none.
    """
    names = {_keys(label): label for label in theirs}
    return {label: names.get(_keys(label)) for label in ours}


def match_sizes(
    ours: Mapping[str, float], theirs: Mapping[Label, float]
) -> dict[str, Label | None]:
    """Return for each model of ours the printed label that gives its size.

    Of several within a factor of ``SAME_SIZE`` the nearest has the label; all others have none.

    Args:
        ours: Number of parameters by name.
        theirs: Number of parameters by label of the paper.
    """
    sized: dict[str, Label | None] = dict.fromkeys(ours)
    for label, size in theirs.items():
        distances = {name: abs(math.log(ours[name] / size)) for name in ours}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] < math.log(SAME_SIZE):
            sized[nearest] = label
    return sized


def labels(names: Iterable[str]) -> list[Label]:
    """Return labels without a group."""
    return [Label(name) for name in names]


def _key(name: str) -> str:
    """Return what spellings of a name share; ImageNet-1K is ImageNet as well."""
    return name.lower().removeprefix("+").replace(" ", "-").replace("-1k", "")


def _keys(label: Label) -> Label:
    return Label(_key(label.name), _key(label.group))
