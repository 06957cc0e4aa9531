"""Faults of Snakemake and its SLURM plugins, patched in the running process by the workflow.

Written for Snakemake 9.27, snakemake-executor-plugin-slurm 2.8 and its job step 0.6, to which
`pyproject.toml` and the lock pin them. Each function fixes one fault and says what it was. A fault
that is gone upstream fails its canary in `tests/cluster/test_slurm_fixes.py`
(``test_the_plugin_still_...``): then delete the function, its call in ``apply`` and its tests.
"""

import copy
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import snakemake_executor_plugin_slurm
import snakemake_executor_plugin_slurm_jobstep
from snakemake.jobs import GroupJob, Job
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface

from rectify.cluster import failures, slurm

AnyJob = Job | GroupJob
TURN = "turn"
OUTAGE_SECONDS = 10
ENDED = {"PREEMPTED": "CANCELLED"}
TRAINING_RULES = {"train"}
"""What the rule is called here, and in workflows whose module this is."""
_ATTENDED: set[str] = set()
POLL_SECONDS = 50  # a controller remembers jobs for MinJobAge; below 60 s the plugin asks sacct


@functools.cache
def apply() -> None:
    """Patch what this process imported; a second call does nothing."""
    look_again_once(JobScheduler)
    try_mistakes_once(JobScheduler, since=time.time())
    take_turns(GroupJob)
    plugin = snakemake_executor_plugin_slurm
    keep_jobs_on_controller_outage(plugin)
    see_jobs_that_ended(plugin)
    warn_every_training(plugin)
    divide_gpus_evenly(plugin)
    report_groups_that_were_refused(plugin.Executor)
    cancel_every_job(plugin.Executor)
    submit_only_while_slurm_answers(plugin.Executor)  # outside of it: the wait ends by Ctrl-C
    ask_before_slurm_forgets(plugin.Executor)
    ignore_signals_in_step(snakemake_executor_plugin_slurm_jobstep.Executor)


def attend(results: str, begin: Callable[[], None], end: Callable[[bool], None]) -> bool:
    """Call ``begin`` before the first job and ``end`` after the last, unless it is a dry run.

    Snakemake does so with ``onstart``, ``onsuccess`` and ``onerror`` of the main Snakefile alone.

    Args:
        results: Folder of the results. A second call for it does nothing.
        begin: Prepares a run.
        end: Takes whether all jobs succeeded.

    Returns:
        Whether it is the first call for these results.
    """
    if results in _ATTENDED:
        return False
    _ATTENDED.add(results)
    original = JobScheduler.schedule

    @functools.wraps(original)
    def schedule(self: JobScheduler) -> bool:
        if self.dryrun or self.workflow.execution_settings.no_hooks:
            return original(self)
        begin()
        is_complete = original(self)
        end(is_complete)
        return is_complete

    JobScheduler.schedule = schedule
    return True


def take_turns(group: type[GroupJob]) -> None:
    """Have the jobs of a group that need a ``turn`` run one after another, as there is one.

    Else the group would ask for the sum of all memory and cores. As an option, ``--resources
    turn=1``, it would be lost wherever a site's profile has limits of its own.
    """
    original = group.resources.fget

    def resources(self: GroupJob) -> object:
        if TURN not in self.global_resources:
            self.global_resources = copy.deepcopy(self.global_resources)  # the scheduler has none
            self.global_resources[TURN] = 1
        return original(self)

    group.resources = property(resources)


def look_again_once(scheduler: type[JobScheduler]) -> None:
    """Have one timer at a time that makes the scheduler look at its jobs again.

    Each look starts a timer for another one a second later, and that one does, too. So each job
    that ends adds a look a second for good, and after some hundred the process does little else.
    """
    deadlines = weakref.WeakKeyDictionary()

    def look_again(self: JobScheduler, delay: float) -> None:
        now = time.monotonic()
        if now < deadlines.get(self, now) <= now + delay:
            return
        deadlines[self] = now + delay
        timer = threading.Timer(delay, self._open_jobs.release)
        timer.daemon = True  # nothing waits for it when all jobs are done
        timer.start()

    scheduler._schedule_reevalutation = look_again


def try_mistakes_once(scheduler: type[JobScheduler], since: float) -> None:
    """Try no job again whose log says that only a user can mend what is wrong.

    Snakemake retries whatever fails, and on a cluster does not know with which exit status.

    Args:
        scheduler: Snakemake's.
        since: When this process started, in seconds of the epoch.
    """
    original = scheduler._handle_error

    @functools.wraps(original)
    def handle_error(self: JobScheduler, job: AnyJob, postprocess_job: bool = True) -> None:
        jobs = list(job.jobs) if job.is_group() else [job]
        logs = [Path(log) for one in jobs for log in one.log]
        rules = {one.rule.name: one.rule for one in jobs}.values()
        before = [(rule, rule._restart_times) for rule in rules]
        try:
            if failures.is_final(logs, since):
                for rule in rules:
                    rule.restart_times = 0
            original(self, job, postprocess_job)
        finally:
            for rule, times in before:
                rule.restart_times = times

    scheduler._handle_error = handle_error


def warn_every_training(plugin: ModuleType) -> None:
    """Ask SLURM to warn a training before its limit, whatever ``slurm_extra`` a site gives it.

    A resource that is set in a profile or on the command line replaces that of the rule.
    """
    original = plugin.get_submit_command

    @functools.wraps(original)
    def get_submit_command(job: AnyJob, *args: object, **kwargs: object) -> str:
        call = original(job, *args, **kwargs)
        is_training = not job.is_group() and job.rule.name in TRAINING_RULES
        return f"{call} {slurm.SIGNAL}" if is_training and "--signal" not in call else call

    plugin.get_submit_command = get_submit_command


def divide_gpus_evenly(plugin: ModuleType) -> None:
    """Ask for as many GPUs on each of a job's nodes.

    The plugin asks for their sum alone, which SLURM divides as GPUs are free.
    """
    original = plugin.set_gres_string

    @functools.wraps(original)
    def set_gres_string(job: AnyJob) -> str:
        asked, nodes, gpus = original(job), job.resources.get("nodes"), job.resources.get("gpu")
        if not gpus or nodes in (None, 1):
            return asked
        model = f"{job.resources.gpu_model}:" if job.resources.get("gpu_model") else ""
        return f"{asked} --gpus-per-node={model}{gpus // nodes}"

    plugin.set_gres_string = set_gres_string


def keep_jobs_on_controller_outage(plugin: ModuleType) -> None:
    """Keep every job when a query of states fails, and ask again later.

    The plugin forgets all running jobs when one round of queries fails, and waits forever.
    """
    original = plugin.query_job_status

    @functools.wraps(original)
    async def query(command: str, logger: logging.Logger) -> tuple[dict[str, str], float]:
        states, seconds = await original(command, logger)
        return ({}, 0.0) if states is None else (states, seconds)

    plugin.query_job_status = query


def see_jobs_that_ended(plugin: ModuleType) -> None:
    """Take cancelled and preempted jobs for ended ones.

    The plugin takes the states ``CANCELLED by 1000`` and ``PREEMPTED`` (for good, where the site
    does not requeue) for a job that runs, and waits forever.
    """
    original = plugin.query_job_status

    @functools.wraps(original)
    async def query(
        command: str, logger: logging.Logger
    ) -> tuple[dict[str, str] | None, float | None]:
        states, seconds = await original(command, logger)
        if states is None:
            return states, seconds
        words = {job: state.split()[0] for job, state in states.items() if state}
        if command.startswith("squeue"):  # which shows a job that was queued again as PENDING
            words = {job: ENDED.get(word, word) for job, word in words.items()}
        return words, seconds

    plugin.query_job_status = query


def report_groups_that_were_refused(executor: type[RemoteExecutor]) -> None:
    """Let a group of jobs fail that the plugin refuses to submit, as for an unknown account.

    The plugin's own report fails, since it asks the group for its rule; nobody sees that error,
    and Snakemake waits forever for a job that was never submitted.
    """
    original = executor.run_job

    @functools.wraps(original)
    def run_job(self: RemoteExecutor, job: JobExecutorInterface) -> None:
        try:
            original(self, job)
        except AttributeError as error:
            if not job.is_group():
                raise
            reason = f"Job submission failed with exception: {error.__context__}"
            self.logger.error(f"Group {job.name}: {reason}")
            self._report_job_error_threadsafe(SubmittedJobInfo(job), reason)

    executor.run_job = run_job


def cancel_every_job(executor: type[RemoteExecutor]) -> None:
    """On Ctrl-C, cancel all jobs of the folder and submit none any more.

    The plugin misses the jobs whose states it is just asking for, and those that it submits
    meanwhile.
    """
    run_job, cancel = executor.run_job, executor.cancel

    @functools.wraps(run_job)
    def run_unless_cancelled(self: RemoteExecutor, job: JobExecutorInterface) -> None:
        if not self.is_cancelled:
            run_job(self, job)

    @functools.wraps(cancel)
    def cancel_all(self: RemoteExecutor) -> None:
        self.is_cancelled = True
        cancel(self)
        try:
            slurm.cancel(slurm.jobs_of(Path.cwd()))
        except ValueError as error:
            self.logger.error(f"{error} Jobs may still run: look for them with `squeue --me`.")

    executor.is_cancelled = False
    executor.run_job, executor.cancel = run_unless_cancelled, cancel_all


def submit_only_while_slurm_answers(executor: type[RemoteExecutor]) -> None:
    """Wait with each submission until SLURM's controller answers.

    The plugin takes a refused connection for a failed job, which spends all retries within a
    second.
    """
    original = executor.run_job

    @functools.wraps(original)
    def run_job(self: RemoteExecutor, job: JobExecutorInterface) -> None:
        while not (getattr(self, "is_cancelled", False) or _answers(self.logger)):
            time.sleep(OUTAGE_SECONDS)
        original(self, job)

    executor.run_job = run_job


def ask_before_slurm_forgets(executor: type[RemoteExecutor]) -> None:
    """Ask for the states of jobs at least every ``POLL_SECONDS``.

    The plugin asks ever more seldom, up to every three minutes, when a controller may have
    forgotten a job that ended.
    """
    interval = executor.next_seconds_between_status_checks
    executor.next_seconds_between_status_checks = property(
        lambda self: min(interval.fget(self), POLL_SECONDS), interval.fset
    )


def ignore_signals_in_step(executor: type[RealExecutor]) -> None:
    """Make the shells of a job's step ignore the signals by which SLURM announces its end.

    The job step is run by `sh`, which would die of SIGUSR2 or SIGTERM, and the training with it.
    A training handles them, and still gets them.
    """
    original = executor.format_job_exec

    @functools.wraps(original)
    def format_job_exec(self: RealExecutor, job: JobExecutorInterface) -> str:
        command = original(self, job)
        is_script = self.workflow.executor_settings.pass_command_as_script
        return f"trap '' USR2 TERM\n{command}" if is_script else command

    executor.format_job_exec = format_job_exec


def _answers(logger: logging.Logger) -> bool:
    """Return whether SLURM's controller answers."""
    try:
        slurm.ask("squeue", "--me", "--noheader", "--states=SUSPENDED")
    except ValueError as error:
        logger.warning(f"{error} Jobs are submitted as soon as it does.")
        return False
    return True
