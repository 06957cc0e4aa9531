"""A table of cells as people read it: Markdown for a screen, LaTeX for a paper.

Both show, for each row, mean ± standard deviation over seeds and below it the number that
the paper prints. A gain stands in brackets behind the accuracy that it belongs to, and
columns with a label ``group: name`` share a head, as in the paper.
"""

import itertools
from typing import Any

from pandas import DataFrame, Series

from rectify.analysis.paper import GAIN
from rectify.analysis.statistics import format_spread

DECIMALS = {"%": 2, "points": 2, "share": 4}
GROUP = ": "  # between the common head of some columns and a column's own name
NO_CELL = "–"

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "−": "$-$",
    "λ": r"$\lambda$",
    **{chr(raised): f"$^{{{chr(plain)}}}$" for plain, raised in _RAISED.items()},
}


def to_markdown(cells: DataFrame) -> str:
    """Return cells as a Markdown table, the paper's number on a second line of each cell."""
    columns, rows = order(cells)["column"], _main_rows(cells)
    lines = [["", *(head(cells, column) for column in columns)], ["---"] * (len(columns) + 1)]
    for row in rows:
        texts = [
            f"{text}<br>*paper {theirs}*" if theirs else text or NO_CELL
            for text, theirs in (cell_texts(cells, row, column) for column in columns)
        ]
        lines.append([f"**{row}**", *texts])
    escaped = (" | ".join(text.replace("|", "\\|") for text in line) for line in lines)
    body = "\n".join(f"| {line} |" for line in escaped)
    return f"{body}\n\n{seeds_text(cells)}.\n"


def to_latex(cells: DataFrame) -> str:
    """Return cells as a ``tabular`` for the packages booktabs; it needs nothing else."""
    columns, rows = order(cells)["column"], _main_rows(cells)
    lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", *_latex_head(cells)]
    lines.append(r"\midrule")
    for row in rows:
        texts = [cell_texts(cells, row, column) for column in columns]
        lines.append(_latex_line([row, *(text or NO_CELL for text, _ in texts)]))
        if any(theirs for _, theirs in texts):
            theirs = [rf"\textit{{{escape(text)}}}" if text else "" for _, text in texts]
            lines.append(" & ".join([r"\quad\textit{paper}", *theirs]) + r" \\")
    note = escape(f"{seeds_text(cells)}.")
    width = len(columns) + 1
    lines += [r"\bottomrule", rf"\multicolumn{{{width}}}{{l}}{{\footnotesize {note}}}\\"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def order(cells: DataFrame) -> dict[str, list[str]]:
    """Return the order of rows and columns, which a sorted file does not keep."""
    return {name: list(dict.fromkeys(cells[name])) for name in ("row", "column")}


def in_order(cells: DataFrame, facts: dict[str, Any]) -> DataFrame:
    """Return cells that were read from a file in the order that `order` gave."""
    ranks = {name: {label: i for i, label in enumerate(facts[name])} for name in ("row", "column")}
    return cells.sort_values(
        ["row", "column"], key=lambda labels: labels.map(ranks[labels.name]), ignore_index=True
    )


def cell_texts(cells: DataFrame, row: str, column: str) -> tuple[str, str]:
    """Return our text and the paper's text of a cell, each with its gain; empty if none."""
    ours, theirs = [], []
    for label, form in ((row, "{}"), (f"{row}{GAIN}", " ({})")):
        found = cells[(cells["row"] == label) & (cells["column"] == column)]
        for _, cell in found.iterrows():
            ours.append(form.format(spread(cell)))
            if cell["paper"] == cell["paper"]:  # a number, not NaN
                theirs.append(form.format(number(cell["paper"], cell["unit"])))
    return "".join(ours), "".join(theirs)


def number(value: float, unit: str) -> str:
    """Return a value with the digits of its unit, a gain with its sign."""
    if unit not in DECIMALS and 0 < abs(value) < 0.1:  # the paper's GSNR on the scale of ours
        return f"{value:.2g}"
    return f"{value:{'+' if unit == 'points' else ''}.{DECIMALS.get(unit, 2)}f}"


def spread(cell: Series) -> str:
    """Return mean ± standard deviation of a cell; the mean alone for one seed."""
    sign = "+" if cell["unit"] == "points" and cell["mean"] >= 0 else ""
    return sign + format_spread(cell["mean"], cell["std"], DECIMALS.get(cell["unit"], 2))


def head(cells: DataFrame, column: str) -> str:
    """Return a column's label with the power of ten of its numbers, if it has one."""
    unit = cells.loc[cells["column"] == column, "unit"].iloc[0]
    power = unit.removeprefix("1e").translate(_RAISED)
    return column if unit in DECIMALS or power == "⁰" else f"{column} (×10{power})"


def heads(cells: DataFrame) -> list[tuple[str, list[str]]]:
    """Return the columns by common head, as (head, own names); the head may be empty."""
    labels = [head(cells, column) for column in order(cells)["column"]]
    parts = [label.rpartition(GROUP) for label in labels]
    grouped = itertools.groupby(parts, key=lambda part: part[0])
    return [(group, [name for _, _, name in members]) for group, members in grouped]


def seeds_text(cells: DataFrame) -> str:
    """Return what a number of the table is, and how many seeds stand behind it."""
    least, most = int(cells["seeds"].min()), int(cells["seeds"].max())
    if most == 0:
        return "One measurement each"
    count = seed_count(most) if least == most else f"n = {least} to {most} seeds"
    return f"Mean ± standard deviation over seeds, {count}"


def seed_count(n: int) -> str:
    """Return how many seeds there are, as "n = 2 seeds"."""
    return f"n = {n} seed{'' if n == 1 else 's'}"


def escape(text: str) -> str:
    """Return text with the characters that LaTeX reads as commands made harmless."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def _main_rows(cells: DataFrame) -> list[str]:
    return [row for row in order(cells)["row"] if not row.endswith(GAIN)]


def _latex_head(cells: DataFrame) -> list[str]:
    groups, lines = heads(cells), []
    if any(group for group, _ in groups):
        spans, rules, first = [""], [], 2
        for group, names in groups:
            spans.append(rf"\multicolumn{{{len(names)}}}{{c}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + len(names) - 1}}}")
            first += len(names)
        lines = [" & ".join(spans) + r" \\", "".join(rules)]
    return [*lines, _latex_line(["", *(name for _, names in groups for name in names)])]


def _latex_line(texts: list[str]) -> str:
    return " & ".join(escape(text) for text in texts) + r" \\"
