"""One self-contained page of all results: tables, figures, job times, provenance.

Every number on the page is read from a file that a rule wrote; the page computes nothing
but sums of job times. Pictures and styles are inside the file, so it opens without a
network, prints, and follows the reader's light or dark setting; so are the files behind them,
as long as they fit.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis import charts, printing
from rectify.analysis.cells import NO_RUN
from rectify.analysis.charts import Spec
from rectify.analysis.downloads import (
    FIGURE_SUFFIXES,
    SHOWN,
    TABLE_SUFFIXES,
    Download,
    data_uri,
    downloads,
    family,
)
from rectify.analysis.findings import Finding
from rectify.analysis.overview import jobs, overview, times_of_rules
from rectify.analysis.packaged import packaged
from rectify.analysis.runs import Link, Runs, embedded
from rectify.results.declared import CELLS, LAST
from rectify.results.tables import read_note, read_table

SCALE = 140 / 72  # page pixels per point of a picture: its letters come out as large as the text's
ABOUT = (
    "Numbers marked “paper” are those that a paper prints, measured by its authors on their own "
    "machines. The numbers above them were measured here. The two are next to each other only "
    "where a paper has a number for the same model on the same data; no other number is compared."
)


LEAD = ("untrained", "coherence", "table3", "table4", "controls", "selection")
"""Kinds of targets whose first finding is on the first screen: similarity, GSNR, accuracy."""


NO_RUNS = Runs()


class Entry(NamedTuple):
    """A table, a figure, or both: its anchor, its name in the contents, and what is shown."""

    anchor: str
    name: str
    title: str
    caption: str
    table: Path | None
    """A ``CELLS`` file, with the ``.md`` and ``.tex`` next to it."""
    picture: Path | None
    """A PNG file, with ``.pdf`` and ``.svg``, and the ``.csv`` and ``.csv.json`` of its values."""
    findings: Sequence[Finding] = ()
    """What it says of the papers' claims."""
    kind: str = ""
    """Of the target."""
    chart: Spec | None = None
    """The figure as one that answers the reader, in the place of the picture."""

    @property
    def tables(self) -> list[Path]:
        """The tables behind it: its cells, the values of its figure."""
        values = [self.picture.with_suffix(".csv")] if self.picture else []
        return [*([self.table] if self.table else []), *values]

    @property
    def runs(self) -> list[str]:
        """The names of the runs that it reads."""
        return read_note(self.tables[0])["provenance"]["facts"].get("runs", [])


class Place(NamedTuple):
    """The texts of one cell of a table, and the number that it is sorted by."""

    value: str
    ours: str
    behind: list[str]
    """What is in brackets behind it, e.g. a gain and its p value."""
    theirs: str
    difference: str
    compared_with: str
    run: Link | None
    """Of the number."""


class Row(NamedTuple):
    """A row of a table."""

    label: str
    places: list[Place]


class TableView(NamedTuple):
    """A table as the template shows it."""

    groups: list[tuple[str, list[str]]]
    is_grouped: bool
    rows: list[Row]
    note: str


class Picture(NamedTuple):
    """A picture as the template shows it: its content, size in page pixels, text in its place."""

    address: str
    width: int
    height: int
    text: str


class Section(NamedTuple):
    """One part of the page."""

    anchor: str
    name: str
    title: str
    caption: str
    table: TableView | None
    picture: Picture | None
    chart: str
    """JSON, or nothing."""
    files: dict[str, list[Download]]
    """Of the table and of the figure."""
    runs: list[Link]
    provenance: dict[str, str]


def page(
    title: str,
    entries: Sequence[Entry],
    benchmarks: Path,
    configs: Sequence[Path],
    credits: Sequence[str] = (),
    folder: Path = Path(),
    command: str = "",
    runs: Runs = NO_RUNS,
) -> str:
    """Return the page.

    Args:
        title: What was run, and on which data.
        entries: Tables and figures, in the order of the page.
        benchmarks: Folder with Snakemake's benchmark files, one subfolder per rule.
        configs: Configuration files to show.
        credits: Whose pictures and models are used.
        folder: Where the page will be: links to files that do not fit in it start there.
        command: The words that made the results.
        runs: Those that have a page of their own.

    Raises:
        ValueError: If one of the files is missing.
    """
    finished = jobs(benchmarks)
    notes = [read_note(path)["provenance"] for entry in entries for path in entry.tables]
    paths = [path for entry in entries for files in _files(entry).values() for path in files]
    specs = {entry.anchor: embedded(entry.chart) for entry in entries if entry.chart}
    library = charts.library() if specs else ""
    links = downloads(paths, folder, taken=len(library) + sum(map(len, specs.values())))
    pages = {name: Link(*of_run) for name, *of_run in runs.settings[["label", "page"]].itertuples()}
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(packaged("page.html.j2")).render(
        title=title,
        about=ABOUT if any(map(_is_compared, entries)) else "",
        style=packaged("page.css"),
        script=packaged("page.js"),
        library=library,
        summary=[(entry, finding) for entry in entries for finding in entry.findings],
        lead=_lead(entries),
        sections=[_section(entry, links, pages, specs.get(entry.anchor, "")) for entry in entries],
        runs=_by_data(runs, pages),
        overview=overview(notes, finished, command),
        times=list(times_of_rules(finished).itertuples(index=False)),
        jobs=len(finished),
        seconds=finished["seconds"].sum(),
        configs={path.name: _text(path) for path in configs},
        credits=credits,
    )


def _is_compared(entry: Entry) -> bool:
    """Whether a number of a paper stands next to one of a table's."""
    return entry.table is not None and bool(read_table(CELLS, entry.table)["paper"].notna().any())


def _lead(entries: Sequence[Entry]) -> list[tuple[Entry, Finding]]:
    """Return the first finding of the first entry of each kind of ``LEAD``, in that order."""
    found: dict[str, tuple[Entry, Finding]] = {}
    for entry in entries:
        if entry.findings:
            found.setdefault(entry.kind, (entry, entry.findings[0]))
    return [found[kind] for kind in LEAD if kind in found]


def _by_data(runs: Runs, pages: Mapping[str, Link]) -> dict[str, list[Link]]:
    """Return the pages of all runs by the title of the data set that they learn."""
    titles = runs.settings["data_title"]
    names = {title: titles.index[titles == title] for title in titles.unique()}
    return {title: [pages[name] for name in of_data] for title, of_data in names.items()}


def _files(entry: Entry) -> dict[str, list[Path]]:
    """Return the files behind an entry that a reader may want, of its table and its figure."""
    kinds = (
        ("Table", entry.table, TABLE_SUFFIXES),
        ("Figure", entry.picture, FIGURE_SUFFIXES),
    )
    return {kind: family(path, suffixes) for kind, path, suffixes in kinds if path}


def _section(
    entry: Entry, links: dict[Path, Download], pages: Mapping[str, Link], chart: str
) -> Section:
    report = read_note(entry.tables[0])["provenance"]["facts"].get("report", LAST)
    first_sentence = f"{entry.caption.partition('. ')[0].rstrip('.')}."
    return Section(
        entry.anchor,
        entry.name,
        entry.title,
        entry.caption,
        _view(read_table(CELLS, entry.table), report, pages) if entry.table else None,
        _picture(entry.picture, first_sentence) if entry.picture else None,
        chart,
        {kind: [links[path] for path in paths] for kind, paths in _files(entry).items()},
        [pages[name] for name in entry.runs if name in pages],
        _provenance(entry.tables[0]),
    )


def _view(cells: DataFrame, report: str, pages: Mapping[str, Link]) -> TableView:
    groups = printing.groups(printing.headings(cells))
    is_compared = cells["paper"].notna().any()
    below = "; below: the paper's number and, after Δ, ours less the paper's"
    rows = [
        Row(line.label, [_place(place, pages) for place in line.places])
        for line in printing.lines(cells)
    ]
    note = f"{printing.note(cells, report)}{below if is_compared else ''}"
    return TableView(groups, any(group for group, _ in groups), rows, note)


def _place(place: list[Series], pages: Mapping[str, Link]) -> Place:
    compared = [f"{cell['paper_row']}, {cell['paper_column']}" for cell in place]
    value = f"{place[0]['mean']:.9g}" if place and pd.notna(place[0]["mean"]) else ""
    return Place(
        value,
        printing.spread(place[0]) if place else printing.NO_CELL,
        [printing.spread(cell) for cell in place[1:]],
        printing.paper_text(place),
        printing.difference_text(place),
        compared[0] if compared else "",
        pages.get(place[0]["run"] if place else NO_RUN),
    )


def _picture(path: Path, text: str) -> Picture:
    shown = path.with_suffix(SHOWN)
    (size,) = re.findall(
        r'<svg [^>]*?width="([\d.]+)pt" height="([\d.]+)pt"', shown.read_text("utf-8")
    )
    width, height = (int(SCALE * float(points)) for points in size)
    return Picture(data_uri(shown), width, height, text)


def _provenance(table: Path) -> dict[str, str]:
    note = read_note(table)
    source = note["provenance"]
    facts = {
        "meaning": note["meaning"],
        "commit": source.get("commit"),
        "runs": ", ".join(source["facts"].get("runs", [])),
        "seeds": ", ".join(map(str, source["facts"].get("seeds", []))),
        "device": ", ".join(source["facts"].get("devices") or [f"{source.get('device')}"]),
        "platform": source.get("platform"),
        "code": source.get("code"),
        "versions": ", ".join(f"{k} {v}" for k, v in (source.get("versions") or {}).items()),
    }
    return {name: f"{value}" for name, value in facts.items() if value}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: must exist, got no file. Name the configuration.") from None
