"""What the workflow asks of SLURM beyond Snakemake's plugin.

Each job carries its workflow in its name, ``rectify_<id>``, and its rule and wildcards in its
comment, so `squeue` finds the jobs of a folder without any file of ours.
"""

import logging
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

SIGNAL = "--signal=USR2@120"
"""Warns a training two minutes before its time is up."""
PREFIX = "rectify_"  # slurm-jobname-prefix of slurm/profile.yaml
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # nodes have no network
FIELDS = "%i|%j|%T|%M|%Z|%k"
QUERY_SECONDS = 60
CANCEL_SECONDS = 180
REQUEUE_SECONDS = 180
UNQUOTABLE = r"['\"\\\x00-\x1f\x7f]"


@dataclass(frozen=True)
class Job:
    """One job of this workflow that waits or runs."""

    number: str
    state: str
    elapsed: str
    """As `squeue` prints it: [days-][hours:]minutes:seconds."""
    rule: str
    wildcards: str
    """Joined by an underscore, as the plugin writes them."""

    @property
    def what(self) -> str:
        """Rule and wildcards in words."""
        return f"{self.rule} {self.wildcards}".strip()


def training_minutes(gpus: int) -> int:
    """Return the run time that a training asks for; it resumes, so more attempts get no more."""
    return 2_880 if gpus else 60


def tasks(nodes: int) -> dict[str, int | str]:
    """Return the resources by which a training starts the processes of several nodes itself.

    With ``mpi`` the plugin starts the command on the first node, outside of a step, so that its
    own srun has all that the job was given. ``tasks`` is then one for each node, and none for
    each GPU.
    """
    return {"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0} if nodes > 1 else {}


def begin(folder: Path, results: str, is_alone: bool) -> list[Job]:
    """Prepare a run that submits jobs from ``folder``; return the leftovers that it cancelled.

    Args:
        folder: Where Snakemake runs.
        results: Folder of the results, as in the configuration.
        is_alone: Whether no other Snakemake runs there: jobs that do are then leftovers.

    Raises:
        ValueError: If SLURM does not answer, a leftover does not end, or a path would not reach
            the jobs unchanged.
    """
    for path in (f"{folder}", results):
        if unquotable := re.search(UNQUOTABLE, path):
            raise ValueError(
                f"slurm: the paths of the project and of `results` must have no quotes, "
                f"backslashes or control characters, since Snakemake's jobs would not quote them, "
                f"got {unquotable[0]!r} in {path!r}. Rename the folder."
            )
    os.environ.update(OFFLINE)  # jobs get the environment of the submitting process
    return cancel_leftovers(folder) if is_alone else []


def jobs_of(folder: Path) -> list[Job]:
    """Return our jobs that were submitted from ``folder`` and have not ended.

    Raises:
        ValueError: If SLURM does not answer.
    """
    command = ("squeue", "--me", "--noheader", f"--format={FIELDS}")
    return _parsed(ask(*command), str(Path(folder).resolve()))


def cancel(jobs: list[Job]) -> None:
    """Cancel jobs; none is no mistake.

    Raises:
        ValueError: If SLURM does not answer.
    """
    if jobs:
        ask("scancel", *(job.number for job in jobs))


def cancel_leftovers(folder: Path) -> list[Job]:
    """Cancel the jobs of a Snakemake that is gone, wait until they have ended, and return them.

    Raises:
        ValueError: If SLURM does not answer, or a job does not end.
    """
    leftovers = jobs_of(folder)
    cancel(leftovers)
    end = time.monotonic() + CANCEL_SECONDS
    remaining = leftovers
    while remaining:
        time.sleep(1)
        remaining = jobs_of(folder)
        if remaining and time.monotonic() > end:
            numbers = " ".join(job.number for job in remaining)
            raise ValueError(
                f"slurm: the jobs of an earlier snakemake in this folder must end before a new one "
                f"starts, got {numbers} after {CANCEL_SECONDS} s. Look at them with `squeue --me`."
            )
    return leftovers


def requeue() -> None:
    """Have SLURM queue the job that this process runs in again, and wait for its end.

    So a training that needs many times its limit resumes by itself, and spends none of
    Snakemake's retries. A job that is being cancelled is not queued again, and neither is one
    that is not of this workflow, in which somebody runs Snakemake. Outside of SLURM nothing
    happens.

    Raises:
        ValueError: If SLURM does not answer, or refuses.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if number is None:
        return
    states = {job.number: job.state for job in jobs_of(Path.cwd())}
    if states.get(number) == "RUNNING":
        log.info("SLURM job %s goes into the queue again", number)
        ask("scontrol", "requeue", number)
        time.sleep(REQUEUE_SECONDS)


def try_requeue() -> None:
    """Requeue this job; where SLURM does not answer, log it: an attempt of Snakemake's resumes."""
    try:
        requeue()
    except ValueError as error:
        log.error("%s", error)


def ask(*command: str, seconds: float = QUERY_SECONDS) -> str:
    """Return the standard output of a SLURM command.

    Raises:
        ValueError: If it fails, is not installed or gives no answer in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"slurm: {command[0]} must answer, got {error}. Run this on a login node."
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ValueError(
            f"slurm: {command[0]} must succeed, got {lines[-1]}. Try `{shlex.join(command)}`."
        )
    return done.stdout


def _parsed(rows: str, folder: str) -> list[Job]:
    jobs = []
    for row in rows.splitlines():
        number, name, state, elapsed, place, comment = row.split("|", 5)
        is_ours = name.startswith(PREFIX) and comment.startswith("rule_")
        if is_ours and place == folder:
            rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
            jobs.append(Job(number, state, elapsed, rule, wildcards))
    return jobs
