"""Make one table from finished runs or measurements.

Reads
    --runs        run folders: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv,
                      predictions.parquet
    --similarity  similarity tables (.csv, with their .csv.json)
    --costs       cost tables (.csv, with their .csv.json)
Writes
    --output      this path with .csv (and .csv.json), .md and .tex behind it
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import check_once, natural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--target", required=True, help="name of the table")
    parser.add_argument("--settings", required=True, help="JSON: kind, settings, estimator, order")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--similarity", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=natural, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="path without suffix")


def run(args: argparse.Namespace) -> None:
    """Write the table as csv, Markdown and LaTeX."""
    from rectify.analysis.cells import without_paper
    from rectify.analysis.collect import Results
    from rectify.analysis.printing import to_latex, to_markdown
    from rectify.results.declared import CELLS
    from rectify.results.files import atomic_path
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.targets import requested

    check_once(args, "runs", "similarity", "costs", "seeds")
    request, target, settings = requested(args.settings, args.target, "table")
    results = Results(args.runs, args.seeds, args.similarity, args.costs, **request.labels)
    cells = target.table(results, settings)
    cells = cells if request.paper else without_paper(cells)
    for suffix, to_text in ((".md", to_markdown), (".tex", to_latex)):
        with atomic_path(Path(f"{args.output}{suffix}")) as temporary:
            temporary.write_text(to_text(cells, request.report), encoding="utf-8")
    source = provenance(
        None, f"rectify.targets.{request.kind}", "rectify.analysis.printing",
        kind=request.kind, target=args.target, seeds=args.seeds, estimator=request.estimator,
        report=request.report, note=settings.note,
    )  # fmt: skip
    write_table(CELLS, cells, Path(f"{args.output}.csv"), source)
    logging.getLogger(__name__).info("wrote %s: %d cells", args.output, len(cells))
