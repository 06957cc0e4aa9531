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
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rectify import config as experiment
from rectify import slurm
from rectify.failures import last_line
from rectify.presence import PROGRESS, is_held
from rectify.records import read_json

OURS = "rectify."  # begins each line of a log but the one that tells an error


class Line(NamedTuple):
    """What is known of one training."""

    state: str
    run: str
    seed: int
    epochs: str = ""
    end: str = ""
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, nargs="+", required=True)


def run(args: argparse.Namespace) -> None:
    """Print the grid and how many runs are in which state."""
    config = experiment.load(args.config)
    jobs, unknown = _queue()
    results = Path(config["results"])
    lines = [
        _line(results, run.name, seed, jobs)
        for run in experiment.all_runs(config)
        for seed in config["seeds"]
    ]
    for line in lines:
        cells = f"{line.state:<8} {line.epochs:>9} {line.end:>16}  {line.run} seed {line.seed}"
        sys.stdout.write(f"{cells}  {line.note}".rstrip() + "\n")
    counts = Counter(line.state for line in lines)
    sys.stdout.write(", ".join(f"{count} {state}" for state, count in counts.items()) + "\n")
    if unknown:
        sys.stdout.write(f"The queue is unknown: {unknown}\n")


def _queue() -> tuple[dict[str, slurm.Job], str]:
    """Return our jobs of this folder by what they are, and why they are unknown, if so."""
    if shutil.which("squeue") is None:
        return {}, ""
    try:
        return {job.what: job for job in slurm.jobs_of(Path.cwd())}, ""
    except ValueError as error:
        return {}, str(error)


def _line(results: Path, name: str, seed: int, jobs: dict[str, slurm.Job]) -> Line:
    folder = results / "runs" / name / f"seed-{seed}"
    if (folder / "summary.json").is_file():
        epochs = read_json(folder / "summary.json")["epochs"]
        return Line("done", name, seed, f"{epochs}/{epochs}")
    states = results / "checkpoints" / name / f"seed-{seed}"
    epochs, end = _progress(states / PROGRESS)
    if job := jobs.get(f"train {name}_{seed}"):
        state = "running" if job.state in ("RUNNING", "COMPLETING") else "waiting"
        end = end if state == "running" else ""
        return Line(state, name, seed, epochs, end, f"SLURM job {job.number}")
    if is_held(states / "lease"):
        return Line("running", name, seed, epochs, end)
    log = results / "logs" / "train" / f"{name}--{seed}.log"
    if log.is_file() and not last_line(log).startswith(OURS):
        return Line("failed", name, seed, epochs, note=f"{log}")
    if log.is_file() or epochs:
        return Line("stopped", name, seed, epochs, note=f"goes on from its state; {log}")
    return Line("open", name, seed)


def _progress(path: Path) -> tuple[str, str]:
    """Return epochs done and the expected end of a training."""
    if not path.is_file():
        return "", ""
    found, written = read_json(path), path.stat().st_mtime
    left = found["epochs"] - found["epochs_done"]
    end = datetime.fromtimestamp(written) + timedelta(seconds=left * found["seconds_per_epoch"])
    return f"{found['epochs_done']}/{found['epochs']}", f"{end:%Y-%m-%d %H:%M}"
