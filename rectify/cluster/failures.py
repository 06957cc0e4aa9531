"""The failed jobs of a Snakemake run in a few lines: what each said last, and where its log is.

Snakemake logs what happens as events; a handler of its logger collects them, so no wording of
the log counts. One thing has no event of its own: why SLURM, or the plugin, refused a job. This
is looked for in the message of the job's error. Snakemake drops it for jobs in a group.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from snakemake_interface_logger_plugins.common import LogEvent

from rectify.arguments import FINAL

REFUSED = re.compile(  # by sbatch, or by the plugin, which knows the accounts
    r"SLURM sbatch failed\. The error message was '(?P<sbatch>.*?)'\.\n"
    r"|Job submission failed with exception: (?P<plugin>.*?)(?:For further error details|\Z)",
    re.DOTALL,
)
UNKNOWN = "it said nothing: it was killed, or never started; see the log of the cluster"


class JobError(TypedDict):
    """What Snakemake's event of a failed job holds, as far as it is used here."""

    jobid: int
    rule_name: str
    rule_msg: str | None
    log: Sequence[str]


@dataclass(frozen=True)
class Failure:
    """One job that failed in its last attempt."""

    job: str
    """Rule and wildcards."""
    refusal: str
    """Why it was never started; empty if it was."""
    logs: tuple[Path, ...]

    def lines(self) -> str:
        """Return what the job said last, then its logs."""
        if self.refusal:  # a log would be an earlier attempt's
            return f"  {self.job}: {self.refusal}"
        said = last_line(self.logs[0]) if self.logs else UNKNOWN
        return "\n".join([f"  {self.job}: {said}", *(f"    {log}" for log in self.logs)])


class Failures(logging.Handler):
    """Collects the jobs of one run that failed and whose retries, if any, did not succeed."""

    def __init__(self) -> None:
        super().__init__()
        self._wildcards: dict[int, str] = {}
        self._failures: dict[int, Failure] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one event; other records are ignored."""
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:  # it starts, for the first time or again
            self._wildcards[record.jobid] = _words(record.wildcards)
            self._failures.pop(record.jobid, None)
        elif event == LogEvent.JOB_ERROR and not record.indent:  # those of a group came with it
            self._add(vars(record), [])
        elif event == LogEvent.GROUP_ERROR:
            for error in record.job_error_info:
                self._add(error, record.aux_logs)

    def summary(self) -> str:
        """Return a paragraph for each failed job; empty if there is none."""
        if not self._failures:
            return ""
        paragraphs = [failure.lines() for failure in self._failures.values()]
        return "\n".join([f"{len(paragraphs)} failed:", *paragraphs])

    def _add(self, error: JobError, shared_logs: Sequence[str]) -> None:
        job = f"{error['rule_name']} {self._wildcards.get(error['jobid'], '')}".strip()
        logs = tuple(map(Path, (*error["log"], *shared_logs)))
        self._failures[error["jobid"]] = Failure(job, _refusal(error["rule_msg"] or ""), logs)


def is_final(logs: Iterable[Path], since: float) -> bool:
    """Return whether a job ended by a mistake that no further attempt can mend.

    Args:
        logs: Of the job, or of all jobs of a group.
        since: When this Snakemake started, in seconds of the epoch; an older log is not its own.
    """
    return any(
        log.is_file()
        and log.stat().st_mtime >= since
        and FINAL in log.read_text(encoding="utf-8", errors="replace").splitlines()
        for log in logs
    )


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, or that there is none."""
    if not log.is_file():
        return UNKNOWN
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    lines = [line.rpartition("\r")[2].strip() for line in lines]  # progress bars end with \r
    return next((line for line in reversed(lines) if line), UNKNOWN)


def _words(wildcards: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in wildcards.items())


def _refusal(message: str) -> str:
    refused = REFUSED.search(message)
    return " ".join((refused["sbatch"] or refused["plugin"] or "").split()) if refused else ""
