"""Draw one figure from finished runs or measurements.

Reads
    --runs        run folders: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv
    --similarity  similarity tables (.csv, with their .csv.json)
    --data        folders of prepared data sets, for figures that show items of them
Writes
    --output      this path with .pdf, .png, .svg and .csv (and .csv.json) behind it
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import natural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--target", required=True, help="name of the figure")
    parser.add_argument("--settings", required=True, help="JSON: kind, settings, estimator, order")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--similarity", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--data", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--seeds", type=natural, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True, help="path without suffix")


def run(args: argparse.Namespace) -> None:
    """Write the figure as pdf, png and svg, and its values as csv."""
    from rectify.analysis.collect import Results
    from rectify.analysis.style import UNDATED, save
    from rectify.results.files import atomic_path
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.targets import requested

    request, target, settings = requested(args.settings, args.target, "figure")
    results = Results(args.runs, args.seeds, args.similarity, sets=args.data, **request.labels)
    drawn = target.figure(results, settings)
    for suffix in UNDATED:
        with atomic_path(Path(f"{args.output}{suffix}")) as temporary:
            save(drawn.figure, temporary)
        drawn.figure.set_layout_engine("none")  # the other formats keep the places of the first
    source = provenance(
        None, f"rectify.targets.{request.kind}",
        kind=request.kind, target=args.target, seeds=args.seeds, estimator=request.estimator,
        report=request.report, note=settings.note, **results.sources,
    )  # fmt: skip
    write_table(target.VALUES, drawn.values, Path(f"{args.output}.csv"), source)
    logging.getLogger(__name__).info("wrote %s: %d values", args.output, len(drawn.values))
