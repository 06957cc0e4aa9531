"""How far one training is: from its files, its lease, its log and the queue."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rectify.cluster.failures import last_line
from rectify.cluster.presence import PROGRESS, STATES, is_held
from rectify.cluster.slurm import Job
from rectify.results.files import read_json

OURS = "rectify."  # begins each line of a log but the one that tells an error


class Training(NamedTuple):
    """What is known of one run and seed."""

    state: str
    """One of done, running, waiting, failed, stopped, open."""
    run: str
    seed: int
    epochs: str = ""
    """Done and all, as 3/10."""
    end: str = ""
    """When it is expected to end, if it runs."""
    note: str = ""

    def line(self) -> str:
        """Return all of it in one line."""
        cells = f"{self.state:<8} {self.epochs:>9} {self.end:>16}  {self.run} seed {self.seed}"
        return f"{cells}  {self.note}".rstrip()


def training(results: Path, run: str, seed: int, jobs: Mapping[str, Job]) -> Training:
    """Return how far a training is.

    Args:
        results: Folder of the results.
        run: Name of the run.
        seed: Its seed.
        jobs: The jobs of this folder on the cluster, by rule and wildcards.
    """
    summary = results / "runs" / run / f"seed-{seed}" / "summary.json"
    if summary.is_file():
        epochs = read_json(summary)["epochs"]
        return Training("done", run, seed, f"{epochs}/{epochs}")
    states = results / STATES / run / f"seed-{seed}"
    epochs, end = _progress(states / PROGRESS)
    if job := jobs.get(f"train {run}_{seed}"):
        note = f"SLURM job {job.number}"
        if job.state in ("RUNNING", "COMPLETING"):
            return Training("running", run, seed, epochs, end, note)
        return Training("waiting", run, seed, epochs, note=note)
    if is_held(states / "lease"):
        return Training("running", run, seed, epochs, end)
    log = results / "logs" / "train" / f"{run}--{seed}.log"
    if log.is_file() and not last_line(log).startswith(OURS):
        return Training("failed", run, seed, epochs, note=f"{log}")
    if log.is_file() or epochs:
        return Training("stopped", run, seed, epochs, note=f"resumes from its state; {log}")
    return Training("open", run, seed)


def _progress(path: Path) -> tuple[str, str]:
    """Return epochs done and the expected end of a training."""
    if not path.is_file():
        return "", ""
    progress, written = read_json(path), path.stat().st_mtime
    remaining = progress["epochs"] - progress["epochs_done"]
    seconds = remaining * progress["seconds_per_epoch"]
    end = datetime.fromtimestamp(written) + timedelta(seconds=seconds)
    return f"{progress['epochs_done']}/{progress['epochs']}", f"{end:%Y-%m-%d %H:%M}"
