"""What the workflow asks of SLURM beyond Snakemake's plugin, and what the plugin gets wrong.

Each job carries its workflow in its name, ``rectify_<id>``, and its rule and wildcards in its
comment, so `squeue` finds the jobs of a folder without any file of ours.
"""

import functools
import logging
import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PREFIX = "rectify_"  # slurm-jobname-prefix of slurm/profile.yaml
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # nodes have no network
FIELDS = "%i|%j|%T|%M|%Z|%k"
QUERY_SECONDS = 60
CANCEL_SECONDS = 180
OUTAGE_SECONDS = 10
POLL_SECONDS = 50  # a controller remembers jobs for MinJobAge; below 60 s the plugin asks sacct
ENDED = {"PREEMPTED": "CANCELLED"}
UNQUOTABLE = r"['\"\\\x00-\x1f\x7f]"
REQUEUE_SECONDS = 180


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


def begin(folder: Path, results: str, is_alone: bool) -> list[Job]:
    """Prepare a run that submits jobs from ``folder``; return the leftovers that it cancelled.

    Args:
        folder: Where Snakemake runs.
        results: Of the configuration.
        is_alone: Whether no other Snakemake runs there: jobs that do are then leftovers.

    Raises:
        ValueError: If SLURM does not answer, jobs go on, or a path would not reach them whole.
    """
    for path in (f"{folder}", results):
        if found := re.search(UNQUOTABLE, path):
            raise ValueError(
                f"slurm: the paths of the project and of `results` must have no quotes, "
                f"backslashes or control characters, since Snakemake's jobs would not quote them, "
                f"got {found[0]!r} in {path!r}. Rename the folder."
            )
    os.environ.update(OFFLINE)  # jobs get the environment of the submitting process
    return cancel_leftovers(folder) if is_alone else []


def mend(plugin: Any) -> None:
    """Make the plugin's query of job states survive an outage and understand ``scancel``.

    Version 2.8.0 forgets every running job when one round of queries fails, and takes the
    states ``CANCELLED by 1000`` and ``PREEMPTED`` (for good, where the site does not requeue)
    for a job that runs. All wait forever. A plugin without the function is left as it is, and
    so is ``None``.
    """
    original = getattr(plugin, "query_job_status", None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str], float]:
        states, seconds = await original(command, logger)
        if states is None:  # no answer: every job stays, and is asked for again later
            return {}, 0.0
        known = {job: state.split()[0] for job, state in states.items() if state}
        if command.startswith("squeue"):  # which shows a job that was queued again as PENDING
            known = {job: ENDED.get(state, state) for job, state in known.items()}
        return known, seconds

    plugin.query_job_status = query_job_status


def mend_executor(plugin: Any) -> None:
    """Make the plugin submit only while SLURM answers, cancel every job, and ask often enough.

    Version 2.8.0 takes a refused connection for a failed job, which spends all retries within a
    second; Ctrl-C misses the jobs whose states it is just asking for, and those that it submits
    meanwhile; and it may ask so seldom that the controller has forgotten a job by then.
    """
    executor = getattr(plugin, "Executor", None)
    if executor is None or hasattr(executor.run_job, "__wrapped__"):
        return
    run_job, cancel = executor.run_job, executor.cancel
    interval = executor.next_seconds_between_status_checks

    @functools.wraps(run_job)
    def submit(self: Any, job: Any) -> None:
        while not (self.is_cancelled or _answers(self.logger)):
            time.sleep(OUTAGE_SECONDS)
        if not self.is_cancelled:
            run_job(self, job)

    @functools.wraps(cancel)
    def cancel_all(self: Any) -> None:
        self.is_cancelled = True
        cancel(self)
        try:
            if left := jobs_of(Path.cwd()):
                ask("scancel", *(job.number for job in left))
        except ValueError as error:
            self.logger.error(f"{error} Jobs may go on: look for them with `squeue --me`.")

    executor.is_cancelled = False
    executor.run_job, executor.cancel = submit, cancel_all
    executor.next_seconds_between_status_checks = property(
        lambda self: min(interval.fget(self), POLL_SECONDS), interval.fset
    )


def _answers(logger: Any) -> bool:
    """Say whether SLURM's controller answers."""
    try:
        ask("squeue", "--me", "--noheader", "--states=SUSPENDED")
    except ValueError as error:
        logger.warning(f"{error} Jobs are submitted as soon as it does.")
        return False
    return True


def mend_step(jobstep: Any) -> None:
    """Make the shells of a job's step ignore the signals by which SLURM announces its end.

    Version 0.6.1 runs the step by `sh`, which would die of SIGUSR2 or SIGTERM, and the training
    with it. A training, which handles them, still gets them. Without that executor, or where it
    does not run a script, nothing happens.
    """
    executor = getattr(jobstep, "Executor", None)
    original = getattr(executor, "format_job_exec", None)
    if original is None or hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def format_job_exec(self: Any, job: Any) -> str:
        command = original(self, job)
        is_script = self.workflow.executor_settings.pass_command_as_script
        return f"trap '' USR2 TERM\n{command}" if is_script else command

    executor.format_job_exec = format_job_exec


def jobs_of(folder: Path) -> list[Job]:
    """Return our jobs that were submitted from ``folder`` and have not ended.

    Raises:
        ValueError: If SLURM does not answer.
    """
    command = ("squeue", "--me", "--noheader", f"--format={FIELDS}")
    return _parsed(ask(*command), str(Path(folder).resolve()))


def cancel_leftovers(folder: Path) -> list[Job]:
    """Cancel the jobs of a Snakemake that is gone, and wait until they have ended.

    Raises:
        ValueError: If SLURM does not answer, or jobs go on.
    """
    found = left = jobs_of(folder)
    if left:
        ask("scancel", *(job.number for job in left))
    end = time.monotonic() + CANCEL_SECONDS
    while left:
        time.sleep(1)
        left = jobs_of(folder)
        if left and time.monotonic() > end:
            numbers = " ".join(job.number for job in left)
            raise ValueError(
                f"slurm: the jobs of an earlier snakemake in this folder must end before a new one "
                f"starts, got {numbers} after {CANCEL_SECONDS} s. Look at them with `squeue --me`."
            )
    return found


def requeue() -> None:
    """Have SLURM queue the job that this process runs in again, and wait for its end.

    So a training that needs many times its limit goes on by itself, and spends none of
    Snakemake's retries. A job that is being cancelled is left to end, and so is one that is not
    of this workflow, in which somebody runs Snakemake. Outside of SLURM nothing happens.

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


def ask(*command: str, seconds: float = QUERY_SECONDS) -> str:
    """Return the standard output of a SLURM command.

    Raises:
        ValueError: If it fails, is not installed or gives no answer in time.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise ValueError(
            f"slurm: {command[0]} must answer, got {error}. Run this on a login node, say."
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise ValueError(
            f"slurm: {command[0]} must succeed, got {said[-1]}. Try `{shlex.join(command)}`."
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
