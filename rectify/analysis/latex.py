"""A table of cells for a paper: a float that ``\\input`` brings into one column or into two.

A cell is a stack: its number, and below it in small type its gain, its interval and its p values.
So columns are narrow, and what remains too wide is split into panels, one below the other. What is
then too high for a page is continued in further floats with the same number. LaTeX takes the
largest type in which the table fits the line. It needs booktabs, nothing else.
"""

import itertools
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pandas import DataFrame, Series

from rectify.analysis.cells import best_places
from rectify.analysis.printing import (
    NO_CELL,
    Heading,
    groups,
    headings,
    lines,
    note,
    paper_text,
    spread,
)
from rectify.results.declared import LAST

LABEL, HEAD = 20, 14  # letters of a line of a row's label, and of a column's head
GAP = 1.5  # letters between two columns
COLUMN, PANEL = 56, 100  # letters across a column of two, in small type, and across a panel
HEIGHT = 56  # lines of a float
SIZES = r"\small\scriptsize", r"\footnotesize\scriptsize", r"\scriptsize\tiny", r"\tiny\tiny"
"""Type of numbers and of what is below them, from the largest."""
BELOW = 0.86  # width of a letter of the second, in those of the first

_RAISED = "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"
_LOWERED = str.maketrans(_RAISED, "-0123456789")
_MINUS = re.compile(r"(?<!\w)-(?=\d)")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%_#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "−": "$-$",
    "<": "$<$",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
}


class Stack(NamedTuple):
    """The lines of one cell, the first in the table's type, the others in a smaller one."""

    texts: list[str]
    theirs: str
    """The paper's number; empty if it prints none."""
    is_best: bool


class Row(NamedTuple):
    """A row of a table: its label and its cells."""

    label: str
    stacks: list[Stack]


def to_latex(cells: DataFrame, *, caption: str, name: str, report: str = LAST) -> str:
    """Return cells as a float with caption and label, which needs the package booktabs.

    Args:
        cells: Rows of a `CELLS` table, as `fill` returns them.
        caption: Plain text.
        name: Of the target; the label is ``tab:<name>``.
        report: The epoch that is shown.
    """
    columns, best = headings(cells), best_places(cells)
    rows = [
        Row(line.label, [_stack(place, best) for place in line.places]) for line in lines(cells)
    ]
    panels = _panels(columns, rows)
    width = max(_width(panel, columns, rows) for panel in panels)
    kind = "table" if width <= COLUMN else "table*"
    floats = _floats([
        _tabular(panel, columns, part)
        for panel in panels
        for part in _parts(_tabular(panel, columns, rows), rows)
    ])  # fmt: skip
    captions = [rf"\caption{{{escape(caption)}}}\label{{tab:{name}}}"]
    captions += [r"\addtocounter{table}{-1}\caption{Continued.}"] * (len(floats) - 1)
    notes = [""] * (len(floats) - 1)
    notes += [rf"{{\footnotesize\raggedright {escape(note(cells, report))}.\par}}"]
    return "\n".join(_float(kind, *one) for one in zip(floats, captions, notes, strict=True))


def _parts(tabular: str, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Yield the rows of a panel, in equal parts if it has too many for one float."""
    count = math.ceil(_height(tabular) / HEIGHT)
    size = math.ceil(len(rows) / count)
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def _floats(tabulars: Sequence[str]) -> list[list[str]]:
    """Return what goes into each float: as much as fits below each other."""
    floats: list[list[str]] = [[]]
    for tabular in tabulars:
        if floats[-1] and sum(map(_height, floats[-1])) + _height(tabular) > HEIGHT:
            floats.append([])
        floats[-1].append(tabular)
    return floats


def _height(tabular: str) -> int:
    """Return how many lines a table has."""
    return tabular.count(r"\\")


def _float(kind: str, tabulars: Sequence[str], caption: str, below: str) -> str:
    body = "\\\\\\addlinespace[8pt]\n".join(tabulars)
    first, *smaller = SIZES
    return "\n".join(
        [
            rf"\begin{{{kind}}}[tb]",
            r"\centering\small\setlength{\tabcolsep}{3pt}\setlength{\emergencystretch}{3em}",
            rf"{caption}\medskip",
            rf"\def\panels{{\begin{{tabular}}{{@{{}}l@{{}}}}{body}\end{{tabular}}}}",
            r"\def\fitted#1#2{#1\let\below#2\setbox0\hbox{\panels}}",
            r"\def\fits{\ifdim\wd0>\linewidth 0\else"
            r"\ifdim\dimexpr\ht0+\dp0\relax>.7\textheight 0\else 1\fi\fi}",
            rf"\fitted{first}",
            *(rf"\ifnum\fits=0 \fitted{size}\fi" for size in smaller),
            r"\leavevmode\box0\par\smallskip",
            *([below] if below else []),
            rf"\end{{{kind}}}",
            "",
        ]
    )


def escape(text: str) -> str:
    """Return text with the characters that LaTeX reads as commands made harmless."""
    return re.sub(f"[{_RAISED}]+|.", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    letters = match[0]
    if letters[0] in _RAISED:
        return f"$^{{{letters.translate(_LOWERED)}}}$"
    return _LATEX.get(letters, letters)


def _stack(place: Sequence[Series], best: set[tuple[int, int]]) -> Stack:
    """Return the lines of a place; an interval has its own."""
    texts = []
    for number, cell in enumerate(place):
        told = spread(cell)
        unit = " %" if told.endswith(" %") else ""
        text, bracket, ends = told.removesuffix(unit).partition(" [")
        texts += [f"({text}{unit})" if number else f"{text}{unit}"]
        texts += [f"[{ends}"] if bracket else []
    is_best = any((cell["row_index"], cell["column_index"]) in best for cell in place)
    signed = [_MINUS.sub("−", text) for text in texts if text]
    return Stack(signed or [NO_CELL], _MINUS.sub("−", paper_text(list(place))), is_best)


def _panels(columns: Sequence[Heading], rows: Sequence[Row]) -> list[list[int]]:
    """Return the columns of each panel: about as many in each, and groups together if they fit."""
    own = _width([], columns, rows)
    widths = [_column_width(index, columns, rows) for index in range(len(columns))]
    pieces = []
    for _, members in itertools.groupby(range(len(columns)), lambda index: columns[index].group):
        group = list(members)
        count = math.ceil(sum(widths[index] for index in group) / (PANEL - own)) or 1
        size = math.ceil(len(group) / count)
        pieces += [group[start : start + size] for start in range(0, len(group), size)]
    sizes = [sum(widths[index] for index in piece) for piece in pieces]
    count = math.ceil(sum(sizes) / (PANEL - own))
    goal = max(sum(sizes) / count, *sizes)
    panels: list[list[int]] = [[]]
    for piece, size in zip(pieces, sizes, strict=True):
        if panels[-1] and sum(widths[index] for index in panels[-1]) + size > goal:
            panels.append([])
        panels[-1] += piece
    return panels


def _width(panel: Sequence[int], columns: Sequence[Heading], rows: Sequence[Row]) -> float:
    """Return how many letters a panel is across, with the labels of its rows."""
    label = max(len(line) for row in rows for line in textwrap.wrap(row.label, LABEL))
    return label + sum((_column_width(index, columns, rows) for index in panel), 0.0)


def _column_width(index: int, columns: Sequence[Heading], rows: Sequence[Row]) -> float:
    head = textwrap.wrap(columns[index].name, HEAD, break_long_words=False)
    stacks = [row.stacks[index] for row in rows]
    full = [*head, *(text for stack in stacks for text in (stack.texts[0], stack.theirs))]
    below = [text for stack in stacks for text in stack.texts[1:]]
    return GAP + max([*map(len, full), *(BELOW * len(text) for text in below)])


def _tabular(panel: Sequence[int], columns: Sequence[Heading], rows: Sequence[Row]) -> str:
    head = _head([columns[index] for index in panel])
    body = [
        line
        for number, row in enumerate(rows)
        for line in (*([r"\addlinespace[2pt]"] if number else []), *_row(row, panel))
    ]
    start = rf"\begin{{tabular}}{{@{{}}l{'r' * len(panel)}@{{}}}}"
    return "\n".join([start, r"\toprule", *head, r"\midrule", *body, r"\bottomrule\end{tabular}"])


def _head(columns: Sequence[Heading]) -> Iterator[str]:
    """Yield the lines of the head: common heads with a rule below them, then names."""
    grouped = groups(list(columns))
    if any(group for group, _ in grouped):
        texts = [textwrap.wrap(group, HEAD * len(names)) for group, names in grouped]
        for line in itertools.zip_longest(*texts, fillvalue=""):
            spans = [
                rf"\multicolumn{{{len(names)}}}{{c}}{{{escape(text)}}}"
                for text, (_, names) in zip(line, grouped, strict=True)
            ]
            yield _line(["", *spans])
        first, rules = 2, ""
        for group, names in grouped:
            last = first + len(names) - 1
            rules += rf"\cmidrule(lr){{{first}-{last}}}" if group else ""
            first = last + 1
        yield rules
    names = [textwrap.wrap(one.name, HEAD, break_long_words=False) for one in columns]
    height = max(map(len, names))
    for line in range(height):  # the last lines stand on the rule
        shown = [name[line - height + len(name)] if line >= height - len(name) else ""
                 for name in names]  # fmt: skip
        yield _line(["", *map(escape, shown)])


def _row(row: Row, panel: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a row: numbers, what is below them, and what the paper prints."""
    stacks = [row.stacks[index] for index in panel]
    labels = textwrap.wrap(row.label, LABEL)
    height = max(len(labels), *(len(stack.texts) for stack in stacks))
    for line in range(height):
        texts = [_shown(stack, line) for stack in stacks]
        end = r"[-2.5pt]" if line + 1 < height else ""
        yield _line([escape(labels[line]) if line < len(labels) else "", *texts]) + end
    if any(stack.theirs for stack in stacks):
        slanted = [rf"\textit{{{escape(one.theirs)}}}" if one.theirs else "" for one in stacks]
        yield _line([r"\quad\textit{paper}", *slanted])


def _shown(stack: Stack, line: int) -> str:
    """Return a line of a cell; empty below its last one."""
    if line >= len(stack.texts):
        return ""
    text = escape(stack.texts[line])
    if line:
        return rf"{{\below {text}}}"
    return rf"\textbf{{{text}}}" if stack.is_best else text


def _line(texts: Sequence[str]) -> str:
    return " & ".join(texts) + r" \\"
