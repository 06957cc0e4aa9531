"""Put all tables and figures of a results folder on one page.

Reads
    --tables      CELLS tables (.csv, with their .csv.json), in the order of the page
    --figures     pictures (.png, with the .csv.json of their values beside them)
    --captions    folder of captions, <name>.rst
    --benchmarks  folder of Snakemake's benchmark files
    --config      configuration files to show
Writes
    --output      the page, one .html file that needs nothing else
"""

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--title", required=True, help="what was run, and on which data")
    parser.add_argument("--tables", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--figures", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--captions", type=Path, required=True, metavar="DIR")
    parser.add_argument("--benchmarks", type=Path, required=True, metavar="DIR")
    parser.add_argument("--config", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from rectify.records import atomic_path
    from rectify.report import page

    text = page(
        title=args.title,
        tables=args.tables,
        figures=args.figures,
        captions=args.captions,
        benchmarks=args.benchmarks,
        configs=args.config,
    )
    with atomic_path(args.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    logging.getLogger(__name__).info("wrote %s: %d characters", args.output, len(text))
