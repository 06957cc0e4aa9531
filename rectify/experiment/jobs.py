"""The jobs that Snakemake plans, as Snakemake itself tells them: what is left, and what it takes.

It logs an event when it knows its jobs. A handler answers with one line on those that take GPUs,
from what is known without torch, or writes the jobs for `rectify plan`, which asks by a variable.
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from snakemake_interface_logger_plugins.common import LogEvent

from rectify.arguments import PLANNED
from rectify.experiment.account import Account
from rectify.experiment.clock import RULES, TRAIN
from rectify.experiment.forecast import Jobs, forecast
from rectify.experiment.grid import MAIN_PAGE
from rectify.experiment.plan import Plan
from rectify.experiment.speeds import load
from rectify.experiment.storage import storage
from rectify.experiment.work import Reader, Subject, Work, known
from rectify.results.files import read_json, write_json

QUIET = ("--quiet", "rules", "progress")  # ends a dry run when the jobs are known


class Head(logging.Handler):
    """Says once what the jobs on GPUs of a plan take, when Snakemake has made it.

    Args:
        plan: Of the configuration.
        jobs: Returns the jobs that are to be run.
        say: Takes the line.
    """

    def __init__(self, plan: Plan, jobs: Callable[[], Jobs], say: Callable[[str], None]):
        super().__init__()
        self.plan, self.jobs, self.say = plan, jobs, say
        self._is_said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Answer the event that comes with the numbers of jobs; other records are ignored."""
        if getattr(record, "event", None) != LogEvent.RUN_INFO or self._is_said:
            return
        self._is_said = True
        if PLANNED in os.environ:
            write_json(Path(os.environ[PLANNED]), self.jobs())
            return
        for line in filter(None, (head(self.plan, self.jobs()), replaced(self.plan, self.jobs()))):
            self.say(line)


def head(plan: Plan, jobs: Jobs) -> str:
    """Return a line on the jobs that take GPUs; empty if there is none."""
    count = sum(rule in RULES for rule, _ in jobs)
    if not count:
        return ""
    speeds = load(None)
    try:
        expected = forecast(plan, jobs, speeds, speeds.measured_on, _known)
        taken = storage(plan, jobs, expected.trainings.each, _known)
        return f"{Account(expected, taken).line()}; more by `rectify plan`"
    except ValueError as error:  # a damaged file, which need not keep anyone from the plan
        return f"{error}"
    except NotCounted:
        trained = sum(rule == TRAIN for rule, _ in jobs)
        kind, number = ("training", trained) if trained else ("job", count)
        return f"{number} {kind}{'s' * (number != 1)}; `rectify plan` says how long they take"


def replaced(plan: Plan, jobs: Jobs) -> str:
    """Return a line on the trainings among the jobs whose results are there; empty if none are.

    Snakemake removes them before it trains again.
    """
    trained = [f"{words['run']}/seed-{words['seed']}" for rule, words in jobs if rule == TRAIN]
    there = [run for run in trained if Path(plan.results, "runs", run, "summary.json").is_file()]
    if not there:
        return ""
    return (
        f"{len(there)} of {len(trained)} trainings replace results that are there; -n says why. "
        "Where only times are new, as in a copy, --touch keeps them: docs/slurm.md"
    )


class NotCounted(Exception):
    """What a model computes was not counted yet, which takes torch."""


def _known(what: Subject | Reader) -> Work:
    work = known(what)
    if work is None:
        raise NotCounted
    return work


def files_of(plan: Plan, names: Sequence[str]) -> list[str]:
    """Return the files of targets, as `rectify plan` takes them.

    Where the workflow is a module of another, the rules of these names may have others.
    """
    main = plan.everything()
    known = {**plan.requests(), MAIN_PAGE: main, "all": main, "report": main[-1:]}
    return list(dict.fromkeys(file for name in names for file in known[name]))


def planned(configs: Sequence[Path], files: Sequence[str], again: bool = False) -> Jobs:
    """Return the jobs that ``snakemake -n`` plans in this folder.

    Args:
        configs: Configuration files, one over the other.
        files: That are asked for; those of the default target if there is none.
        again: Whether all are meant, as if there were no results.

    Returns:
        Rule and wildcards of each, in the same order every time.

    Raises:
        ValueError: If Snakemake cannot plan them: its last line.
    """
    if not any(Path(place).is_file() for place in ("Snakefile", "workflow/Snakefile")):
        raise ValueError(
            f"plan: the folder must be that of the Snakefile, got {Path.cwd()}. Change to it."
        )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "jobs.json"
        said = subprocess.run(
            [
                *(sys.executable, "-m", "snakemake", "--dry-run", "--nocolor", *QUIET),
                *(["--forceall"] if again else []),
                *("--configfile", *map(str, configs), "--", *files),
            ],
            env={**os.environ, PLANNED: f"{answer}", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if said.returncode:
            lines = [line for line in said.stdout.splitlines() if line.strip()]
            raise ValueError(f"plan: snakemake must plan the jobs, got: {lines[-1]}")
        jobs = [(rule, words) for rule, words in read_json(answer)] if answer.is_file() else []
    return sorted(jobs, key=lambda job: (job[0], sorted(job[1].items())))  # Snakemake's are a set
