"""A table of cells as people read it: texts of its cells and heads, and Markdown for a screen.

Tables show, for each row, mean ± standard deviation over seeds and below it the number that
the paper prints. A gain (from three seeds on with its 95 % interval) and its p value over the test
items, or the p value of a correlation, are in brackets behind the value that they belong to, and
columns of one group share a head, as in the paper.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis.metrics import DECIMALS
from rectify.analysis.published import DIFFERENCE, GAINS, HOLM, ITEM_TEST, RELATIVE_GAIN, P
from rectify.analysis.statistics import format_p, format_spread, seed_count
from rectify.results.declared import BEST, LAST

NO_CELL = "–"
TESTS = (P, ITEM_TEST, HOLM)
BEHIND = (*GAINS, *TESTS)  # kinds of cell that are in brackets behind the value
REPORTED = {LAST: "", BEST: "; the first metric is that of the epoch that tests best"}
"""What a note says of the epoch that is shown."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Heading(NamedTuple):
    """A column's place, its common head if it has one, and its name with its power of ten."""

    index: int
    group: str
    name: str


class Line(NamedTuple):
    """A row's label and, for each column, the cells that are there, first the value."""

    label: str
    places: list[list[Series]]


def headings(cells: DataFrame) -> list[Heading]:
    """Return the columns of a table, from the left."""
    first = cells.sort_values("column_index", kind="stable").drop_duplicates("column_index")
    return [
        Heading(int(cell["column_index"]), cell["group"], f"{cell['column']}{_power(cell)}")
        for _, cell in first.iterrows()
    ]


def groups(columns: list[Heading]) -> list[tuple[str, list[str]]]:
    """Return the columns by common head, as (head, names); the head may be empty."""
    grouped = itertools.groupby(columns, key=lambda heading: heading.group)
    return [(group, [heading.name for heading in members]) for group, members in grouped]


def lines(cells: DataFrame) -> Iterator[Line]:
    """Yield the rows of a table, from the top."""
    columns = [heading.index for heading in headings(cells)]
    for _, of_row in cells.groupby("row_index"):
        in_order = of_row.sort_values("kind", key=lambda kinds: kinds.isin(BEHIND), kind="stable")
        places = [
            [cell for _, cell in in_order[in_order["column_index"] == column].iterrows()]
            for column in columns
        ]
        yield Line(of_row["row"].iloc[0], places)


def to_markdown(cells: DataFrame, report: str = LAST) -> str:
    """Return cells as a Markdown table, the paper's number on a second line of each cell."""
    names = [f"{h.group}: {h.name}" if h.group else h.name for h in headings(cells)]
    rows = [[f"**{line.label}**", *map(_markdown, line.places)] for line in lines(cells)]
    escaped = [[text.replace("|", "\\|") for text in row] for row in ([*names], *rows)]
    table = DataFrame(escaped[1:], columns=["", *escaped[0]])
    text = table.to_markdown(index=False, tablefmt="pipe", disable_numparse=True)
    return f"{text}\n\n{note(cells, report)}.\n"


def ours_text(place: list[Series]) -> str:
    """Return our numbers of a place, gain or p in brackets behind the value; empty if none."""
    return _bracketed([spread(cell) for cell in place])


def paper_text(place: list[Series]) -> str:
    """Return the paper's numbers of a place likewise; empty if it prints none."""
    return _bracketed([number(cell, "paper") for cell in place if pd.notna(cell["paper"])])


def difference_text(place: list[Series]) -> str:
    """Return ours less the paper's numbers of a place likewise, each with its sign."""
    cells = [cell for cell in place if pd.notna(cell["difference"])]
    return _bracketed([number(cell, "difference", signed=True) for cell in cells])


def number(cell: Series, name: str, signed: bool = False) -> str:
    """Return a number of a cell with the digits of its unit, a gain with its sign."""
    value = cell[name]
    sign = "+" if signed or cell["kind"] in GAINS else ""
    if cell["unit"] not in DECIMALS and 0 < abs(value) < 0.1:  # the paper's GSNR on our scale
        return f"{value:{sign}.2g}"
    return f"{value:{sign}.{_decimals(cell)}f}{_percent(cell)}"


def spread(cell: Series) -> str:
    """Return mean ± standard deviation of a cell, or why there is none; p = 0.012 of a p value.

    A gain has its 95 % interval instead, if it has one; a single seed the mean alone.
    """
    if pd.isna(cell["mean"]):
        return f"{cell['text']}"
    if cell["kind"] == HOLM:
        return f"Holm {format_p(cell['mean'])}"
    if cell["kind"] in TESTS:
        return format_p(cell["mean"])
    decimals = _decimals(cell)
    if pd.notna(cell["low"]):
        ends = f"[{cell['low']:+.{decimals}f}, {cell['high']:+.{decimals}f}]"
        return f"{cell['mean']:+.{decimals}f} {ends}{_percent(cell)}"
    sign = "+" if cell["kind"] in GAINS and cell["mean"] >= 0 else ""
    return sign + format_spread(cell["mean"], cell["std"], decimals) + _percent(cell)


def note(cells: DataFrame, report: str = LAST) -> str:
    """Return what is said below a table: what its numbers are, and of which epoch they are."""
    return f"{seeds_text(cells)}{REPORTED[report]}"


def seeds_text(cells: DataFrame) -> str:
    """Return what a number of the table is, and how many seeds are behind it."""
    seeds = cells.loc[cells["mean"].notna() | (cells["seeds"] > 0), "seeds"]
    least, most = int(seeds.min()), int(seeds.max())
    if most == 0:
        return "One measurement each"
    count = seed_count(most) if least == most else f"n = {least} to {most} seeds"
    if "rho" in set(cells["unit"]):
        return f"Spearman's ρ (p value) over runs, each the mean over its seeds, {count}"
    texts = [f"Mean ± standard deviation over seeds, {count}"]
    known = cells.loc[cells["low"].notna(), "kind"]
    if DIFFERENCE in set(known):
        texts.append("differences with 95 % intervals over items, and over models and seeds")
    if (known != DIFFERENCE).any():
        texts.append("gains over vanilla, seed by seed, with 95 % intervals over seeds")
    if ITEM_TEST in set(cells["kind"]):
        texts.append("p of gains: paired test over the test items")
    if tests := (cells["kind"] == HOLM).sum():
        texts.append(f"Holm p: corrected for the {tests} tests of the table")
    return "; ".join(texts)


def _decimals(cell: Series) -> int:
    return DECIMALS.get(cell["unit"], 2)


def _percent(cell: Series) -> str:
    """Return the unit of what is relative: a table says no other unit either."""
    return " %" if cell["kind"] == RELATIVE_GAIN else ""


def _power(cell: Series) -> str:
    """Return the power of ten of a column's numbers, as people write it."""
    if cell["scale"] == 1:
        return ""
    mantissa, _, exponent = f"{cell['scale']:e}".partition("e")
    assert float(mantissa) == 1, cell["scale"]
    return f" (×10{f'{int(exponent)}'.translate(_RAISED)})"


def _bracketed(texts: list[str]) -> str:
    return f"{texts[0]} ({', '.join(texts[1:])})" if len(texts) > 1 else "".join(texts)


def _markdown(place: list[Series]) -> str:
    ours, theirs = ours_text(place), paper_text(place)
    return f"{ours}<br>*paper {theirs}*" if theirs else ours or NO_CELL
