"""Show how far each run of the configuration is: from its files, its lease and the queue.

Reads
    --config  configuration files, one over the other, as given to snakemake
Writes
    nothing; one line for each run and seed
"""

import argparse
import shutil
import sys
from collections import Counter
from pathlib import Path

from rectify.cluster import slurm
from rectify.cluster.trainings import training
from rectify.experiment.grid import all_runs, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, nargs="+", required=True)


def run(args: argparse.Namespace) -> None:
    """Print each training of the grid and how many are in which state."""
    config = load(args.config)
    results, seeds = Path(config.results), config.seeds
    names = [planned.name for planned in all_runs(config)]
    jobs, unknown = _queue()
    trainings = [training(results, name, seed, jobs) for name in names for seed in seeds]
    counts = Counter(known.state for known in trainings)
    lines = [known.line() for known in trainings]
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    if unknown:
        lines.append(f"The queue is unknown: {unknown}")
    sys.stdout.write("\n".join(lines) + "\n")


def _queue() -> tuple[dict[str, slurm.Job], str]:
    """Return our jobs of this folder by what they are, and why they are unknown, if so."""
    if shutil.which("squeue") is None:
        return {}, ""
    try:
        return {job.what: job for job in slurm.jobs_of(Path.cwd())}, ""
    except ValueError as error:
        return {}, str(error)
