"""Show how far each run of the configuration is: from its files, its lease and the queue.

Reads
    targets   tables, figures, experiments or pages that are meant; all of them unless given
    --config  configuration files, as for snakemake; default: config.yaml, or config/config.yaml
Writes
    nothing; one line for each run and seed, and one for all of them
"""

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path

from rectify.arguments import add_configs, positive
from rectify.cluster import slurm
from rectify.cluster.trainings import Progress, training
from rectify.experiment import grid
from rectify.experiment.settings import Config

CLEAR = "\x1b[H\x1b[2J"  # a terminal's screen


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("targets", nargs="*", metavar="target", help="as given to snakemake")
    add_configs(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--watch", type=positive, nargs="?", const=10, metavar="SECONDS",
        help="show it again every 10 seconds, or as many, until all is done",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Print each training of the targets, and how many are in which state."""
    config = grid.asked(grid.load(args.config), args.targets)
    while True:
        progress = _progress(config)
        text = json.dumps(progress.record(), indent=2) if args.json else progress.text()
        clear = CLEAR if args.watch and sys.stdout.isatty() else ""
        sys.stdout.write(f"{clear}{text}\n")
        sys.stdout.flush()
        if args.watch is None or progress.is_done:
            return
        time.sleep(args.watch)


def _progress(config: Config) -> Progress:
    jobs, unknown = _queue()
    epochs = {run.name: grid.recipe_of(config, run).epochs for run in grid.all_runs(config)}
    trainings = [
        training(Path(config.results), name, seed, jobs) for name in epochs for seed in config.seeds
    ]
    return Progress(trainings, epochs, unknown)


def _queue() -> tuple[dict[str, slurm.Job], str]:
    """Return the trainings in the queue by run and seed, and why they are unknown, if so."""
    if shutil.which("squeue") is None:
        return {}, ""
    try:
        jobs = slurm.jobs_of(Path.cwd())
    except ValueError as error:
        return {}, str(error)
    # Where the workflow is a module of another, its rules may have a prefix.
    return {job.wildcards: job for job in jobs if re.search(r"(^|_)train$", job.rule)}, ""
