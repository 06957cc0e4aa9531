"""Put all tables and figures of a results folder on one page.

Reads
    --tables      CELLS tables, <target>.csv, with their .csv.json, .md and .tex
    --figures     pictures, <target>.png, with their .pdf, .svg, .csv and .csv.json
    --benchmarks  folder of Snakemake's benchmark files
    --config      configuration files to show
    --runs        run folders: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv
    --logs        folder of logs, <rule>/<run>--<seed>.log
    RECTIFY_COMMAND  (a variable) the command line to show, if there is one
Writes
    --output      the page, one .html file that needs nothing else but files that do not fit in it
                  next to it, <its name>-runs/ with a page for each run, and their scripts
"""

import argparse
import logging
import os
import shutil
from pathlib import Path

from rectify.arguments import COMMAND, natural, picture_path, table_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--title", required=True, help="what was run, and on which data")
    parser.add_argument("--credits", nargs="*", default=[], help="for the foot of the page")
    parser.add_argument("--targets", nargs="*", default=[], help="in the order of the page")
    parser.add_argument("--tables", type=table_path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--figures", type=picture_path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--benchmarks", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--seeds", type=natural, nargs="*", default=[], help="of the runs")
    parser.add_argument("--logs", type=Path, default=Path("logs"), metavar="DIR")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from rectify.analysis.page import page
    from rectify.analysis.runs import Runs
    from rectify.results.files import atomic_path
    from rectify.targets.entries import entry

    tables, figures = ({path.stem: path for path in paths} for paths in (args.tables, args.figures))
    strange = [name for name in (*tables, *figures) if name not in args.targets]
    if strange:
        raise ValueError(
            f"report: each file must belong to one of --targets, got {strange[0]}. Name it there."
        )
    folder, stem = args.output.parent, args.output.stem
    runs = Runs(args.runs, args.seeds, args.logs, folder / f"{stem}-runs")
    entries = [entry(name, tables.get(name), figures.get(name), runs) for name in args.targets]
    given = (args.title, entries, args.benchmarks, args.config, args.credits)
    text = page(*given, folder=folder, command=os.environ.get(COMMAND, ""), runs=runs)
    texts = {args.output: text, **dict(runs.files(args.title, args.output.name, entries))}
    if runs.pages.is_dir():
        shutil.rmtree(runs.pages)  # also pages of runs that are no more
    runs.pages.mkdir(parents=True)
    for path, content in texts.items():
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    logging.getLogger(__name__).info("wrote %s: %d characters", args.output, len(text))
