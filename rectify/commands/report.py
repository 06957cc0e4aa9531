"""Put all tables and figures of a results folder on one page.

Reads
    --tables      CELLS tables, <target>.csv, with their .csv.json, .md and .tex
    --figures     pictures, <target>.png, with their .pdf, .csv and .csv.json
    --benchmarks  folder of Snakemake's benchmark files
    --config      configuration files to show
    RECTIFY_COMMAND  (a variable) the command line to show, if there is one
Writes
    --output      the page, one .html file that needs nothing else but files that do not fit in it
"""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.arguments import COMMAND, picture_path, table_path

if TYPE_CHECKING:
    from rectify.analysis.page import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--title", required=True, help="what was run, and on which data")
    parser.add_argument("--credits", nargs="*", default=[], help="for the foot of the page")
    parser.add_argument("--targets", nargs="*", default=[], help="in the order of the page")
    parser.add_argument("--tables", type=table_path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--figures", type=picture_path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--benchmarks", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from rectify.analysis.page import page
    from rectify.results.files import atomic_path

    tables, figures = ({path.stem: path for path in paths} for paths in (args.tables, args.figures))
    strange = [name for name in (*tables, *figures) if name not in args.targets]
    if strange:
        raise ValueError(
            f"report: each file must belong to one of --targets, got {strange[0]}. Name it there."
        )
    entries = [_entry(name, tables.get(name), figures.get(name)) for name in args.targets]
    given = (args.title, entries, args.benchmarks, args.config, args.credits)
    text = page(*given, folder=args.output.parent, command=os.environ.get(COMMAND, ""))
    with atomic_path(args.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logging.getLogger(__name__).info("wrote %s: %d characters", args.output, len(text))


def _entry(name: str, table: Path | None, picture: Path | None) -> "Entry":
    from rectify.analysis.page import Entry
    from rectify.results.declared import CELLS
    from rectify.results.tables import read_note, read_table
    from rectify.targets import caption, module_of, titles

    path = table or (picture and picture.with_suffix(".csv"))
    if path is None:
        raise ValueError(f"report: {name} must have a file, got none. Pass its table or figure.")
    facts = read_note(path)["provenance"]["facts"]
    kind, target = facts["kind"], module_of(facts["kind"])
    text, (title, short) = caption(kind, facts.get("note")), titles(name, kind)
    cells = table and read_table(CELLS, table)
    values = picture and read_table(target.VALUES, picture.with_suffix(".csv"))
    return Entry(name, short, title, text, table, picture, target.findings(cells, values), kind)
