"""One self-contained page of all results: tables, figures, job times, provenance.

Every number on the page is read from a file that a rule wrote; the page computes nothing
but sums of job times. Pictures and styles are inside the file, so it opens without a
network, prints, and follows the reader's light or dark setting.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pandas import DataFrame

from rectify.analysis.printing import (
    NO_CELL,
    head,
    heads,
    in_order,
    number,
    order,
    seeds_text,
    spread,
)
from rectify.records import CELLS, read_note, read_table

SCALE = 0.7  # page pixels per pixel of a picture: its letters come out as large as the text's
BESIDE = (
    "Numbers marked “paper” are those that the paper prints, measured by its authors on their "
    "own data sets and models. The numbers above them were measured here, on the data and models "
    "that this page's title and labels name. Where these are not the paper's, the two stand side "
    "by side for orientation, matched by rank (the smallest model beside the smallest, the i-th "
    "layer beside the i-th), and their difference is no error of reproduction."
)

STYLE = """
:root { color-scheme: light dark; --ink: #1d232b; --soft: #5b6673; --line: #d9dee5;
  --back: #ffffff; --card: #f6f8fa; --accent: #0067a8; --paper: #9a4a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ed; --soft: #9aa6b3; --line: #36404c;
  --back: #14181d; --card: #1d232b; --accent: #6cb8ec; --paper: #f0a868; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 1200px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 12px; text-wrap: balance; }
h2 { font-size: 21px; margin: 0 0 6px; }
.note { color: var(--soft); max-width: 75ch; margin: 0 0 20px; }
nav { position: sticky; top: 0; z-index: 1; background: var(--back);
  border-bottom: 1px solid var(--line); }
nav ul { max-width: 1200px; margin: 0 auto; padding: 10px 24px; list-style: none; display: flex;
  flex-wrap: wrap; gap: 4px 18px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { margin: 36px 0; scroll-margin-top: 64px; }
section > p { max-width: 75ch; margin: 0 0 14px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-bottom: 10px; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: right; vertical-align: top; white-space: nowrap; }
th { font-weight: 600; }
thead th { white-space: normal; vertical-align: bottom; }
thead span { white-space: nowrap; }
tbody th, thead th:first-child { text-align: left; }
thead tr:first-child th { border-top: 2px solid var(--ink); }
thead tr:last-child th { border-bottom: 1px solid var(--ink); }
thead .group { text-align: center; border-bottom: 1px solid var(--line); }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 2px solid var(--ink); }
td small { display: block; font-size: 12px; color: var(--soft); }
td small.paper { color: var(--paper); }
figure { margin: 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; padding: 10px;
  border: 1px solid var(--line); border-radius: 6px; }
details { margin: 8px 0; }
summary { cursor: pointer; color: var(--soft); font-size: 14px; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 8px 0 0;
  font-size: 13px; color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 14px;
  overflow-x: auto; font-size: 13px; line-height: 1.45; }
footer { padding-top: 8px; padding-bottom: 48px; color: var(--soft); font-size: 13px; }
@media print { nav { display: none; } body { font-size: 10pt; } table { font-size: 8pt; }
  th, td { padding: 3px 5px; }
  section { break-inside: avoid; } header, main, footer { max-width: none; padding: 0; } }
"""


class Section(NamedTuple):
    """One part of the page: its anchor, its name in the navigation, its HTML."""

    anchor: str
    name: str
    body: str


def page(
    title: str,
    tables: Sequence[Path],
    figures: Sequence[Path],
    captions: Path,
    benchmarks: Path,
    configs: Sequence[Path],
) -> str:
    """Return the whole page.

    Args:
        title: What was run, and on which data.
        tables: ``CELLS`` files, shown in this order.
        figures: PNG files, each beside a ``.csv.json`` of the same stem; a figure with the
            name of a table stands below that table.
        captions: Folder with one ``.rst`` of plain text per table and figure.
        benchmarks: Folder with Snakemake's benchmark files, one subfolder per rule.
        configs: Configuration files to show.

    Raises:
        ValueError: If one of the files is missing.
    """
    below = {figure.stem: figure for figure in figures}
    sections = [_table_section(path, captions, below.get(path.stem)) for path in tables]
    shown = {path.stem for path in tables}
    sections += [_figure_section(path, captions) for path in figures if path.stem not in shown]
    sections.append(Section("times", "Job times", _times(job_times(benchmarks))))
    sections.append(Section("configuration", "Configuration", _configs(configs)))
    return _document(title, sections, _commits([*tables, *figures]))


def job_times(benchmarks: Path) -> DataFrame:
    """Return jobs, total and longest time (s) of each rule.

    A file ``<rule>/<anything>.tsv`` is one job; directly in the folder it is ``<rule>.tsv``.
    """
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).parts
        measured = pd.read_csv(path, sep="\t", na_values="-")
        rows.append((parts[0].removesuffix(".tsv"), float(measured["s"].mean())))
    jobs = DataFrame(rows, columns=["rule", "seconds"]).groupby("rule")
    times = jobs["seconds"].agg(jobs="count", total="sum", longest="max")
    return times.sort_values("total", ascending=False).reset_index()


def _document(title: str, sections: list[Section], commits: str) -> str:
    links = "".join(f'<li><a href="#{s.anchor}">{html.escape(s.name)}</a></li>' for s in sections)
    parts = "".join(
        f'<section id="{s.anchor}"><h2>{html.escape(s.name)}</h2>{s.body}</section>\n'
        for s in sections
    )
    name = html.escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{name}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n<header><h1>{name}</h1><p class="note">{BESIDE}</p></header>\n'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n<main>\n{parts}</main>\n'
        f"<footer>Made by rectify, commit {html.escape(commits)}.</footer>\n</body>\n</html>\n"
    )


def _table_section(path: Path, captions: Path, picture: Path | None) -> Section:
    note = read_note(path)
    cells = in_order(read_table(CELLS, path), note["provenance"]["facts"])
    name = _name(path)
    below = _picture(picture, f"{name} as a heat map") if picture is not None else ""
    printed = cells["paper"].notna().any()
    beside = "; below: the paper's number and, after Δ, ours less the paper's" if printed else ""
    body = (
        f"<p>{_caption(captions, path)}</p>"
        f'<div class="wide">{_cells_html(cells)}</div>'
        f'<p class="note">{seeds_text(cells)}{beside}.</p>'
        f"{below}{_provenance(note)}"
    )
    return Section(path.stem, name, body)


def _figure_section(path: Path, captions: Path) -> Section:
    caption = _caption(captions, path)
    picture = _picture(path, re.split(r"(?<=\.)\s", html.unescape(caption))[0])
    note = read_note(path.with_suffix(".csv"))
    return Section(path.stem, _name(path), f"<p>{caption}</p>{picture}{_provenance(note)}")


def _picture(path: Path, text: str) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: must exist, got no file. Make the figure first.") from None
    coded = base64.b64encode(content).decode("ascii")
    width, height = (int(SCALE * int.from_bytes(content[i : i + 4], "big")) for i in (16, 20))
    size = f'width="{width}" height="{height}"'
    source, alt = f"data:image/png;base64,{coded}", html.escape(text)
    return f'<figure><img src="{source}" {size} alt="{alt}"></figure>'


def _caption(captions: Path, path: Path) -> str:
    file = captions / f"{path.stem}.rst"
    try:
        return html.escape(" ".join(file.read_text(encoding="utf-8").split()))
    except FileNotFoundError:
        raise ValueError(
            f"{file}: must hold the caption of {path.stem}, got no file. Write it."
        ) from None


def _cells_html(cells: DataFrame) -> str:
    places = order(cells)
    by_place = cells.set_index(["row", "column"])
    lines = [
        f"<tr><th scope='row'>{html.escape(row)}</th>"
        + "".join(_cell_html(by_place, (row, column)) for column in places["column"])
        + "</tr>"
        for row in places["row"]
    ]
    return f"<table><thead>{_head_html(cells)}</thead><tbody>{''.join(lines)}</tbody></table>"


def _head_html(cells: DataFrame) -> str:
    groups = heads(cells)
    if not any(group for group, _ in groups):
        return _header_row([head(cells, column) for column in order(cells)["column"]])
    spans = "".join(
        f'<th scope="colgroup" class="group" colspan="{len(names)}">{html.escape(group)}</th>'
        for group, names in groups
    )
    names = [name for _, members in groups for name in members]
    return f"<tr><th></th>{spans}</tr>{_header_row(names)}"


def _header_row(names: Iterable[str]) -> str:
    cells = "".join(f'<th scope="col">{_unbroken(name)}</th>' for name in names)
    return f"<tr><th></th>{cells}</tr>"


def _unbroken(name: str) -> str:
    return " ".join(f"<span>{html.escape(word)}</span>" for word in name.split(" "))


def _cell_html(cells: DataFrame, place: tuple[str, str]) -> str:
    if place not in cells.index:
        return f"<td>{NO_CELL}</td>"
    cell = cells.loc[place]
    lines = [html.escape(spread(cell))]
    if pd.notna(cell["paper"]):
        unit, where = cell["unit"], f"{cell['paper_row']}, {cell['paper_column']}"
        difference = f"{'+' if cell['difference'] >= 0 else ''}{number(cell['difference'], unit)}"
        lines.append(
            f'<small class="paper" title="paper: {html.escape(where)}">paper '
            f"{number(cell['paper'], unit)}</small><small>Δ {difference.replace('++', '+')}</small>"
        )
    return f"<td>{''.join(lines)}</td>"


def _provenance(note: dict[str, Any]) -> str:
    source = note["provenance"]
    facts = {
        "meaning": note["meaning"],
        "commit": source.get("commit"),
        "seeds": ", ".join(map(str, source["facts"].get("seeds", []))),
        "device": source.get("device"),
        "platform": source.get("platform"),
        "code": source.get("code"),
        "versions": ", ".join(f"{k} {v}" for k, v in (source.get("versions") or {}).items()),
    }
    items = "".join(
        f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>"
        for name, value in facts.items()
        if value
    )
    return f"<details><summary>Where this comes from</summary><dl>{items}</dl></details>"


def _times(times: DataFrame) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(str(row.rule))}</th><td>{row.jobs}</td>"
        f"<td>{row.total:,.1f}</td><td>{row.longest:,.1f}</td></tr>"
        for row in times.itertuples(index=False)
    )
    names = ["jobs", "total (s)", "longest (s)"]
    table = f"<table><thead>{_header_row(names)}</thead><tbody>{rows}</tbody></table>"
    total = (
        f"{int(times['jobs'].sum())} jobs, {times['total'].sum():,.0f} s in all, one after another."
    )
    return f'<p>{total}</p><div class="wide">{table}</div>'


def _configs(configs: Sequence[Path]) -> str:
    parts = []
    for path in configs:
        try:
            text = html.escape(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path}: must exist, got no file. Name the configuration.") from None
        name = html.escape(path.name)
        parts.append(f"<details><summary>{name}</summary><pre>{text}</pre></details>")
    return "".join(parts)


def _name(path: Path) -> str:
    return re.sub(r"(\d+)$", r" \1", path.stem).capitalize()


def _commits(paths: Sequence[Path]) -> str:
    notes = (read_note(path.with_suffix(".csv")) for path in paths)
    return ", ".join(sorted({str(note["provenance"].get("commit")) for note in notes}))
