"""Every number that the paper prints, and with which of its cells one of ours is compared.

``targets/published.csv`` holds the printed cells digit by digit, each with its source. Where the
paper prints a bare ``+AUX`` under a model, the row there carries the model's name as well.
"""

import csv
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

SAME_SIZE = 1.4  # a factor; of two printed sizes at most one is as near as that
GSNR = "GSNR"  # the name of its columns
GAINS = GAIN, RELATIVE_GAIN = ("gain", "relative gain")  # kinds, over vanilla: in its unit, in %
P, ITEM_TEST = "p", "item test"  # kinds of p value: of a correlation, of a gain over the test items
REGRET = "regret"  # a kind: what the best gains more
LANGUAGE = "LLaMA-7B"  # the model of Table 3, which no label of a table names


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

    The others have none. Only where no table of the paper has any of our models or data sets
    are they stand-ins for the paper's, and matched by rank.
    """
    if not any(_key(label.group or label.name) in _known_names() for label in ours):
        return match(ours, theirs)
    names = {_keys(label): label for label in theirs}
    return {label: names.get(_keys(label)) for label in ours}


def match_sizes(
    ours: Mapping[str, float], theirs: Mapping[Label, float]
) -> dict[str, Label | None]:
    """Return for each model of ours the label of the paper's model of its size.

    The nearest of ours has the label, and no other. Where none of ours is within a factor of
    ``SAME_SIZE`` of any, all are matched by rank.

    Args:
        ours: Number of parameters by name, from the smallest to the largest.
        theirs: Number of parameters by label of the paper, likewise.
    """
    sized: dict[str, Label | None] = dict.fromkeys(ours)
    for label, size in theirs.items():
        distances = {name: abs(math.log(ours[name] / size)) for name in ours}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] < math.log(SAME_SIZE):
            sized[nearest] = label
    if any(sized.values()):
        return sized
    ranked = match([Label(name) for name in ours], list(theirs))
    return {name: ranked[Label(name)] for name in ours}


def match(ours: Sequence[Label], theirs: Sequence[Label]) -> dict[Label, Label | None]:
    """Return for each label of ours the printed one of the same role, where names may mislead.

    Both sequences run from the smallest to the largest model, or from the first to the last
    layer. Where the paper prints all of our labels they are the same thing, and matched by
    name; otherwise the i-th of ours is compared with the i-th of the paper.
    """
    names = {_lower(label): label for label in theirs}
    if all(_lower(label) in names for label in ours):
        return {label: names[_lower(label)] for label in ours}
    padded = [*theirs, *[None] * len(ours)]
    return dict(zip(ours, padded, strict=False))


def labels(names: Iterable[str]) -> list[Label]:
    """Return labels without a group."""
    return [Label(name) for name in names]


def _lower(label: Label) -> Label:
    return Label(label.name.lower(), label.group.lower())


def _key(name: str) -> str:
    """Return what spellings of a name share; ImageNet-1K is ImageNet as well."""
    return name.lower().removeprefix("+").replace(" ", "-").replace("-1k", "")


def _keys(label: Label) -> Label:
    return Label(_key(label.name), _key(label.group))


@functools.cache
def _known_names() -> frozenset[str]:
    """Return the models and data sets of all tables."""
    cells = every_cell()
    names = {name for cell in cells for name in (cell.row.name, cell.column.group)}
    names |= {cell.column.name for cell in cells if not cell.column.group}
    return frozenset(_key(name) for name in {*names, LANGUAGE} - {""})
