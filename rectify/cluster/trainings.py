"""How far one training is: from its files, its lease, its log and the queue."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Progress:
    """How far some trainings are, all together."""

    trainings: Sequence[Training]
    epochs: Mapping[str, int]
    """Epochs of a training, by its run."""
    unknown: str = ""
    """Why the queue is not known, if it is not."""

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return all(one.state == "done" for one in self.trainings)

    @property
    def counts(self) -> dict[str, int]:
        """How many trainings are in which state."""
        return dict(Counter(one.state for one in self.trainings))

    @property
    def share(self) -> float:
        """The share of all epochs that is trained, 0 .. 1."""
        whole = sum(self.epochs[one.run] for one in self.trainings)
        trained = sum(
            self.epochs[one.run] if one.state == "done" else int(one.epochs.partition("/")[0] or 0)
            for one in self.trainings
        )
        return trained / whole if whole else 1.0

    def text(self) -> str:
        """Return a line for each training, and one for all of them."""
        lines = [one.line() for one in self.trainings]
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        done, ends = self.counts.get("done", 0), [one.end for one in self.trainings if one.end]
        total = f"{done} of {len(self.trainings)} trainings done, {self.share:.0%} of all epochs"
        lines.append(f"{states or 'no training'}")
        lines.append(f"{total}{f'; those that run end by {max(ends)}' if ends else ''}")
        if self.unknown:
            lines.append(f"The queue is unknown: {self.unknown}")
        return "\n".join(lines)

    def record(self) -> dict[str, object]:
        """Return the same, ready for JSON."""
        return {
            "counts": self.counts,
            "trainings_done": self.counts.get("done", 0),
            "trainings": len(self.trainings),
            "share_of_epochs": self.share,
            "queue": self.unknown or None,
            "runs": [one._asdict() for one in self.trainings],
        }


def training(results: Path, run: str, seed: int, jobs: Mapping[str, Job]) -> Training:
    """Return how far a training is.

    Args:
        results: Folder of the results.
        run: Name of the run.
        seed: Its seed.
        jobs: Trainings of this folder on the cluster, by run and seed.
    """
    summary = results / "runs" / run / f"seed-{seed}" / "summary.json"
    if summary.is_file():
        epochs = read_json(summary)["epochs"]
        return Training("done", run, seed, f"{epochs}/{epochs}")
    states = results / STATES / run / f"seed-{seed}"
    epochs, end = _progress(states / PROGRESS)
    if job := jobs.get(f"{run}_{seed}"):
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
