"""Make one table from finished runs or measurements.

Reads
    --runs        run folders: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv,
                      predictions.parquet
    --similarity  similarity tables (.csv, with their .csv.json)
    --costs       cost tables (.csv, with their .csv.json)
    --data        folders of prepared data sets, for tables with numbers of their items
Writes
    --output      this path with .csv (and .csv.json), .md and .tex behind it
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import natural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--target", required=True, help="name of the table")
    parser.add_argument("--settings", required=True, help="JSON: kind, settings, estimator, order")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--similarity", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--costs", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--seeds", type=natural, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="path without suffix")


def run(args: argparse.Namespace) -> None:
    """Write the table as csv, Markdown and LaTeX."""
    from rectify.analysis.cells import without_paper
    from rectify.analysis.collect import Results
    from rectify.analysis.latex import to_latex
    from rectify.analysis.printing import to_markdown
    from rectify.results.declared import CELLS
    from rectify.results.files import atomic_path
    from rectify.results.provenance import provenance
    from rectify.results.tables import as_stored, write_table
    from rectify.targets import caption, requested

    request, target, settings = requested(args.settings, args.target, "table")
    files = (args.similarity, args.costs, args.data)
    results = Results(args.runs, args.seeds, *files, **request.labels)
    cells = target.table(results, settings)
    cells = as_stored(cells if request.paper else without_paper(cells))
    float_ = {"caption": caption(request.kind, settings.note), "name": args.target}
    texts = {
        ".md": to_markdown(cells, request.report),
        ".tex": to_latex(cells, report=request.report, **float_),
    }
    for suffix, text in texts.items():
        with atomic_path(Path(f"{args.output}{suffix}")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    source = provenance(
        None, f"rectify.targets.{request.kind}", "rectify.analysis.latex",
        kind=request.kind, target=args.target, seeds=args.seeds, estimator=request.estimator,
        report=request.report, note=settings.note, **results.sources,
    )  # fmt: skip
    write_table(CELLS, cells, Path(f"{args.output}.csv"), source)
    logging.getLogger(__name__).info("wrote %s: %d cells", args.output, len(cells))
