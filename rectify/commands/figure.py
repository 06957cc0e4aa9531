"""Draw one figure of the paper, or the heat map of Table 3, from finished results.

Reads
    --runs        run folders: config.json and seed-<s>/{history,gsnr,evaluation}.csv
    --similarity  similarity tables (.csv, with their .csv.json)
Writes
    --output      this path with .pdf, .png and .csv (and .csv.json) behind it
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rectify.analysis.figures import Drawn

NAMES = ("figure2", "figure3", "figure4", "figure5", "table3")
ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--figure", choices=NAMES, required=True)
    parser.add_argument("--runs", type=Path, nargs="*", default=[], metavar="DIR")
    parser.add_argument("--similarity", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--estimator", choices=ESTIMATORS, default="plain", help="of GSNR")
    parser.add_argument("--output", type=Path, required=True, help="path without suffix")


def run(args: argparse.Namespace) -> None:
    """Write the figure as pdf and png, and its values as csv."""
    from rectify.analysis.values import VALUES
    from rectify.provenance import provenance
    from rectify.records import write_table

    figure, values = _draw(args)
    _save(figure, args.output)
    source = provenance(
        None, "rectify.analysis.figures", figure=args.figure, seeds=args.seeds,
        estimator=args.estimator,
    )  # fmt: skip
    write_table(VALUES[args.figure], values, Path(f"{args.output}.csv"), source)
    logging.getLogger(__name__).info("wrote %s: %d values", args.output, len(values))


def _draw(args: argparse.Namespace) -> "Drawn":
    from rectify.analysis import collect, figures

    if args.figure == "figure4":
        return figures.figure4(collect.collect_similarity(args.similarity))
    if args.figure in ("figure2", "figure3"):
        draw = figures.figure2 if args.figure == "figure2" else figures.figure3
        return draw(collect.collect_gsnr(args.runs, args.seeds), args.estimator)
    runs = collect.collect_runs(args.runs, args.seeds)
    if args.figure == "table3":
        return figures.table3_heatmap(runs)
    return figures.figure5(runs, collect.collect_similarity(args.similarity))


def _save(figure: "Figure", output: Path) -> None:
    from rectify.analysis.style import look
    from rectify.records import atomic_path

    for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
        with look(), atomic_path(Path(f"{output}{suffix}")) as temporary:
            figure.savefig(temporary, metadata=metadata)
