"""Make one table of the paper, or of those beyond it, from finished runs or measurements.

Reads
    --runs        run folders: config.json and seed-<s>/{history,gsnr,evaluation}.csv
    --similarity  similarity tables (.csv, with their .csv.json)
    --costs       cost tables (.csv, with their .csv.json)
Writes
    --output      this path with .csv (and .csv.json), .md and .tex behind it
"""

import argparse
import logging
from pathlib import Path

from rectify.analysis.paper import TABLES

ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")
WITH_GSNR = ("table4", "table5", "controls")
SETS = {"controls": 1, "table2": 1, "table3": 1, "table4": 2, "table5": 2, "table6": 3}  # at most


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--table", choices=(*TABLES, "controls", "cost"), required=True)
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--similarity", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--data", nargs="*", default=[], help="data sets, in the table's order")
    parser.add_argument("--estimator", choices=ESTIMATORS, default="plain", help="of GSNR")
    parser.add_argument("--output", type=Path, required=True, help="path without suffix")


def run(args: argparse.Namespace) -> None:
    """Write the table as csv, Markdown and LaTeX."""
    from rectify.analysis import collect, printing, tables
    from rectify.provenance import provenance
    from rectify.records import CELLS, atomic_path, write_table

    if args.table == "table1":
        cells = tables.table1(collect.collect_similarity(args.similarity))
    elif args.table == "cost":
        cells = tables.cost(collect.collect_costs(args.costs))
    else:
        _check_data(args)
        runs = collect.collect_runs(args.runs, args.seeds)
        choice = {"estimator": args.estimator} if args.table in WITH_GSNR else {}
        cells = tables.RUN_TABLES[args.table](runs, args.data, **choice)
    source = provenance(
        None, "rectify.analysis.tables", table=args.table, seeds=args.seeds, data=args.data,
        estimator=args.estimator, **printing.order(cells),
    )  # fmt: skip
    texts = {".md": printing.to_markdown(cells), ".tex": printing.to_latex(cells)}
    for suffix, text in texts.items():
        with atomic_path(Path(f"{args.output}{suffix}")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_table(CELLS, cells, Path(f"{args.output}.csv"), source)
    logging.getLogger(__name__).info("wrote %s: %d cells", args.output, len(cells))


def _check_data(args: argparse.Namespace) -> None:
    most = SETS[args.table]
    if not 1 <= len(args.data) <= most:
        raise ValueError(
            f"{args.table}: --data must name 1 to {most} data sets, got {len(args.data)}. "
            "Name them in the order of the table's columns."
        )
