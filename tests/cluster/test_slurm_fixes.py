"""The faults of Snakemake's SLURM plugins: that each is fixed, and that it is still there.

When a test whose name begins with ``test_the_plugin_still`` fails, its fault is gone upstream:
delete the fix in `workflow/slurm_fixes.py`, its call, and its tests here.
"""

import asyncio
import contextlib
import functools
import logging
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import snakemake_executor_plugin_slurm as plugin
import snakemake_executor_plugin_slurm_jobstep as jobstep
from snakemake.jobs import GroupJob
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from rectify.arguments import FINAL
from rectify.cluster import slurm
from tests.helpers.programs import write_programs
from workflow import slurm_fixes

ROOT = Path(__file__).resolve().parents[2]
LOGGER = logging.getLogger("plugin")
Query = Callable[[str, logging.Logger], Awaitable[tuple]]


def asked(query: Query, command: str) -> tuple:
    return asyncio.run(query(command, LOGGER))


def answering(answer: tuple) -> types.SimpleNamespace:
    """A plugin whose query has one answer."""

    async def query(command: str, logger: logging.Logger) -> tuple:
        return answer

    return types.SimpleNamespace(query_job_status=query)


class Executor:
    """What the fixes need of the plugin's executor, and a note of what it did."""

    logger = LOGGER
    interval = 180
    next_seconds_between_status_checks = property(
        lambda self: self.interval, lambda self, seconds: setattr(self, "interval", seconds)
    )

    def __init__(self) -> None:
        self.did: list[str] = []

    def run_job(self, job: str) -> None:
        self.did.append(job)

    def cancel(self) -> None:
        self.did.append("cancel")
        self.run_job("submitted too late")


@pytest.fixture
def executor() -> type[Executor]:
    """A class of its own for each test, since fixes change it."""
    return type("Executor", (Executor,), {})


def test_an_outage_loses_no_job() -> None:
    outage, calm = answering((None, None)), answering(({"7": "RUNNING"}, 0.1))
    for own in (outage, calm):
        slurm_fixes.keep_jobs_on_controller_outage(own)
    assert asked(outage.query_job_status, "sacct") == ({}, 0.0)
    assert asked(calm.query_job_status, "sacct") == ({"7": "RUNNING"}, 0.1)


@pytest.mark.parametrize(("tool", "preempted"), [("squeue", "CANCELLED"), ("sacct", "PREEMPTED")])
def test_cancelled_and_preempted_jobs_have_ended(tool: str, preempted: str) -> None:
    states = {"6": "CANCELLED by 1000", "7": "PREEMPTED", "8": "PENDING", "9": ""}
    own = answering((states, 0.1))
    slurm_fixes.see_jobs_that_ended(own)
    expected = {"6": "CANCELLED", "7": preempted, "8": "PENDING"}
    assert asked(own.query_job_status, f"{tool} --me") == (expected, 0.1)


def test_the_query_that_fails_has_no_states_to_read() -> None:
    own = answering((None, None))
    slurm_fixes.see_jobs_that_ended(own)
    assert asked(own.query_job_status, "squeue") == (None, None)


def test_jobs_are_submitted_when_the_controller_answers_again(
    executor: type[Executor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [False, False, True, True]

    def ask(*command: str) -> str:
        if not answers.pop(0):
            raise ValueError("slurm: squeue must succeed, got no connection.")
        return ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(slurm_fixes, "OUTAGE_SECONDS", 0)
    slurm_fixes.submit_only_while_slurm_answers(executor)
    running = executor()
    running.run_job("first")
    running.run_job("second")
    assert (running.did, answers) == (["first", "second"], [])
    assert caplog.text.count("Jobs are submitted as soon as it does") == 2


def test_ctrl_c_reaches_every_job_and_ends_the_wait_for_slurm(
    executor: type[Executor], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []

    def ask(*command: str) -> str:
        commands.append(command)
        if "--states=SUSPENDED" in command:
            raise ValueError("slurm: squeue must succeed, got no connection.")
        row = f"|rectify_a|RUNNING|0:01|{Path.cwd()}|rule_train_wildcards_x\n"
        return f"7{row}8{row}" if "--me" in command else ""

    monkeypatch.setattr(slurm, "ask", ask)
    slurm_fixes.cancel_every_job(executor)
    slurm_fixes.submit_only_while_slurm_answers(executor)
    running = executor()
    running.cancel()
    running.run_job("later still")
    assert running.did == ["cancel"]  # and none is submitted any more
    assert commands == [commands[0], ("scancel", "7", "8")]


def test_ctrl_c_in_an_outage_says_that_jobs_may_still_run(
    executor: type[Executor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm.subprocess, "run", MagicMock(side_effect=FileNotFoundError("gone")))
    slurm_fixes.cancel_every_job(executor)
    executor().cancel()
    assert "squeue must answer, got gone" in caplog.text
    assert "Jobs may still run: look for them with `squeue --me`" in caplog.text


def test_states_are_asked_for_before_a_controller_forgets_them(executor: type[Executor]) -> None:
    slurm_fixes.ask_before_slurm_forgets(executor)
    running = executor()
    assert running.next_seconds_between_status_checks == slurm_fixes.POLL_SECONDS
    running.next_seconds_between_status_checks = 20
    assert running.next_seconds_between_status_checks == 20


STEP = "kill -USR2 $$; kill $$; touch alive"


def step(is_script: bool, monkeypatch: pytest.MonkeyPatch, folder: Path, fixed: bool) -> bool:
    """Have the plugin run a job's step that gets both signals; return whether it outlived them."""
    write_programs(folder, srun='while [ "$1" != sh ]; do shift; done; exec "$@"')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(folder)

    class Step(jobstep.Executor):
        workflow = MagicMock()
        logger, job_array_task, gpu_job = LOGGER, False, None

        def __init__(self) -> None:
            self.workflow.executor_settings.pass_command_as_script = is_script

        def format_job_exec(self, job: MagicMock) -> str:
            return STEP

    if fixed:
        slurm_fixes.ignore_signals_in_step(Step)
    job = MagicMock(threads=1, resources={})
    Step().run_job(job)
    return (folder / "alive").exists()


def test_a_step_that_is_a_script_ignores_the_signals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert step(True, monkeypatch, tmp_path, fixed=True)


def test_the_plugin_still_lets_a_step_die_of_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not step(True, monkeypatch, tmp_path, fixed=False)


def test_a_step_that_is_no_script_is_left_as_it_is() -> None:
    settings = types.SimpleNamespace(pass_command_as_script=False)

    class Step:
        workflow = types.SimpleNamespace(executor_settings=settings)

        def format_job_exec(self, job: str) -> str:
            return job

    slurm_fixes.ignore_signals_in_step(Step)
    assert Step().format_job_exec("a command") == "a command"


GROUP = """
import sys
from rectify.cluster.failures import Failures
from workflow import slurm_fixes

slurm_fixes.apply()
FAILURES = Failures()
logger.addHandler(FAILURES)

rule grouped:
    output: "grouped.txt"
    log: "grouped.log"
    group: "blocks"
    shell: "touch {output}"

onerror:
    print(FAILURES.summary(), flush=True)
"""


def refused_group(folder: Path) -> subprocess.Popen:
    """Start Snakemake with a group of jobs and an account that SLURM does not know."""
    write_programs(
        folder / "bin",
        **dict.fromkeys(("sacctmgr", "sshare"), "echo good"),
        **dict.fromkeys(("squeue", "scontrol", "sinfo", "scancel", "sacct", "sbatch"), "exit 0"),
    )
    options = ("--executor", "slurm", "--jobs", "1", "--default-resources", "slurm_account=wrong")
    return subprocess.Popen(
        (sys.executable, "-m", "snakemake", *options, "mem_mb=10", "runtime=1",
         "--slurm-init-seconds-before-status-checks", "1", "--", "grouped.txt"),
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "PATH": f"{folder}/bin{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_group_that_the_plugin_refuses_fails_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(GROUP)
    with refused_group(tmp_path) as snakemake:
        shown, said = snakemake.communicate(timeout=300)
    assert snakemake.returncode == 1, said
    assert shown.startswith("1 failed:\n  grouped: ")
    assert (
        "Group blocks_grouped: Job submission failed with exception: The given account wrong"
        in said
    )


def test_the_plugin_still_asks_a_group_for_its_rule() -> None:
    assert not hasattr(GroupJob, "rule")
    executor = MagicMock()
    executor.slurm_logdir.mkdir.side_effect = ValueError("an unknown account")
    job = MagicMock(spec=GroupJob)
    with pytest.raises(AttributeError, match="rule"):
        plugin.Executor.run_job(executor, job)


def still_active(
    monkeypatch: pytest.MonkeyPatch, answer: tuple, pause: int = 1
) -> tuple[bool, int]:
    """Return whether the plugin waits for a job, given an answer of its query, and how long."""
    monkeypatch.setattr(plugin, "query_job_status", answering(answer).query_job_status)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    executor = MagicMock(status_rate_limiter=contextlib.nullcontext(), run_uuid="run")
    executor.get_status_command.return_value = "squeue"
    executor.workflow.executor_settings.init_seconds_before_status_checks = 1
    executor.workflow.executor_settings.status_attempts = 1
    for counter in ("calls", "failures", "total_seconds", "min_seconds", "max_seconds"):
        setattr(executor, f"_status_query_{counter}", 0)
    executor.next_seconds_between_status_checks = pause

    async def waited_for() -> list:
        jobs = [MagicMock(external_jobid="7", aux={})]
        return [job async for job in plugin.Executor.check_active_jobs(executor, jobs)]

    return bool(asyncio.run(waited_for())), executor.next_seconds_between_status_checks


def test_the_plugin_still_forgets_jobs_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not still_active(monkeypatch, (None, None))[0]  # nobody knows: it is forgotten
    assert still_active(monkeypatch, ({}, 0.0))[0]  # the fix's answer is understood


@pytest.mark.parametrize("state", ["CANCELLED by 1000", "PREEMPTED"])
def test_the_plugin_still_takes_an_ended_job_for_a_running_one(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    assert still_active(monkeypatch, ({"7": state}, 0.1))[0]
    assert not still_active(monkeypatch, ({"7": "CANCELLED"}, 0.1))[0]  # the fix's is understood


def test_the_plugin_still_asks_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    running = ({"7": "RUNNING"}, 0.1)
    assert still_active(monkeypatch, running, pause=170)[1] > slurm_fixes.POLL_SECONDS


def test_the_plugin_still_takes_a_refused_connection_for_a_failed_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refuse = "echo 'Unable to contact slurm controller (connect failure)' >&2; false"
    monkeypatch.setattr(plugin, "get_submit_command", lambda *_, **__: refuse)
    monkeypatch.setattr(plugin, "set_gres_string", lambda job: "")
    for name in ("validate_slurm_extra", "get_job_wildcards"):
        monkeypatch.setattr(plugin, name, lambda job: "")
    executor = MagicMock(slurm_logdir=tmp_path, _failed_nodes=set())
    executor.get_account_arg.return_value = iter([""])
    executor.workflow.executor_settings.pass_command_as_script = True
    executor.format_job_exec.return_value = "true"
    job = MagicMock()
    job.is_group.return_value = False
    plugin.Executor.run_job(executor, job)
    ((_, message), _) = executor._report_job_error_threadsafe.call_args
    assert "Unable to contact slurm controller" in message


def test_the_plugin_still_hides_jobs_from_ctrl_c_while_it_asks_for_their_states() -> None:
    seen = []
    settings = types.SimpleNamespace(init_seconds_before_status_checks=0)
    executor = MagicMock(active_jobs=["7"], wait=True, lock=threading.Lock())
    executor.workflow.executor_plugin.common_settings = settings

    async def check_active_jobs(jobs: list[str]) -> None:
        seen.append(list(executor.active_jobs))
        for job in jobs:
            yield job

    async def sleep() -> None:
        executor.wait = False

    executor.check_active_jobs, executor.sleep = check_active_jobs, sleep
    asyncio.run(RemoteExecutor._wait_for_jobs(executor))
    assert (seen, executor.active_jobs) == ([[]], ["7"])
    assert plugin.Executor.cancel is RemoteExecutor.cancel


class Scheduler:
    """What a timer needs of Snakemake's scheduler."""

    def __init__(self) -> None:
        self.looks = 0
        self._open_jobs = self

    def release(self) -> None:
        self.looks += 1


def test_the_plugin_still_starts_a_timer_on_each_look() -> None:
    scheduler = Scheduler()
    for _ in range(5):
        JobScheduler._schedule_reevalutation(scheduler, 0.01)
    wait_for(lambda: scheduler.looks == 5)


def test_a_timer_that_waits_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", None)
    slurm_fixes.look_again_once(JobScheduler)
    one, other = Scheduler(), Scheduler()
    for _ in range(5):
        JobScheduler._schedule_reevalutation(one, 0.2)
    JobScheduler._schedule_reevalutation(other, 0.2)
    wait_for(lambda: (one.looks, other.looks) == (1, 1))
    time.sleep(0.3)
    assert (one.looks, other.looks) == (1, 1)
    JobScheduler._schedule_reevalutation(one, 30)  # again, and an earlier one does not wait for it
    JobScheduler._schedule_reevalutation(one, 0.01)
    wait_for(lambda: one.looks == 2)


class Rule:
    """A rule that is retried twice, as a profile says."""

    def __init__(self, name: str):
        self.name, self._restart_times = name, None

    @property
    def restart_times(self) -> int:
        return 2 if self._restart_times is None else self._restart_times

    @restart_times.setter
    def restart_times(self, times: int | None) -> None:
        self._restart_times = times


def failing(log: Path, rule: Rule) -> MagicMock:
    """A job in its first attempt."""
    job = MagicMock(rule=rule, log=[f"{log}"], attempt=1, jobs=None)
    job.is_group.return_value = False
    type(job).restart_times = property(lambda self: self.rule.restart_times)
    return job


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Snakemake's scheduler, as far as it handles a failed job, with the fix."""
    monkeypatch.setattr(JobScheduler, "_handle_error", JobScheduler._handle_error)
    slurm_fixes.try_mistakes_once(JobScheduler, since=0.0)
    made = MagicMock(failed=set())
    made.workflow.dryrun = True
    made.workflow.dag._ready_jobs = set()
    return made


@pytest.mark.parametrize("is_final", [True, False])
@pytest.mark.parametrize("is_group", [True, False])
def test_a_mistake_is_tried_once_and_anything_else_again(
    scheduler: MagicMock, tmp_path: Path, is_final: bool, is_group: bool
) -> None:
    rule = Rule("train")
    (tmp_path / "log").write_text(f"{FINAL}\na: must.\n" if is_final else "killed\n")
    job = failing(tmp_path / "log", rule)
    if is_group:
        fine = failing(tmp_path / "absent", rule)
        group = MagicMock(jobs={job, fine}, attempt=1)
        type(group).restart_times = property(lambda self: max(j.restart_times for j in self.jobs))
        group.is_group.return_value = True
        job = group
    JobScheduler._handle_error(scheduler, job)
    assert (job in scheduler.failed) == is_final
    assert (job in scheduler.workflow.dag._ready_jobs) == (not is_final)
    assert job.attempt == (1 if is_final else 2)
    assert rule.restart_times == 2  # of the rule's other jobs


def test_the_plugin_still_tries_again_whatever_the_log_says(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(f"{FINAL}\na: must.\n")
    job, scheduler = failing(tmp_path / "log", Rule("train")), MagicMock(failed=set())
    scheduler.workflow.dryrun = True
    scheduler.workflow.dag._ready_jobs = set()
    JobScheduler._handle_error(scheduler, job)
    assert job in scheduler.workflow.dag._ready_jobs


@pytest.mark.parametrize(
    ("rule", "call", "expected"),
    [
        ("train", "sbatch --qos=high", "sbatch --qos=high --signal=USR2@120"),
        ("train", "sbatch --signal=USR2@120", "sbatch --signal=USR2@120"),
        ("train", "sbatch --signal=USR2@300", "sbatch --signal=USR2@300"),
        ("paper_train", "sbatch", "sbatch --signal=USR2@120"),  # of a module, by its prefix
        ("evaluate", "sbatch --qos=high", "sbatch --qos=high"),
    ],
)
def test_every_training_is_warned(
    monkeypatch: pytest.MonkeyPatch, rule: str, call: str, expected: str
) -> None:
    own = types.SimpleNamespace(get_submit_command=lambda job, params, settings: call)
    slurm_fixes.warn_every_training(own)
    monkeypatch.setattr(slurm_fixes, "TRAINING_RULES", {"train", "paper_train"})
    job = failing(Path("log"), Rule(rule))
    assert own.get_submit_command(job, {}, settings=None) == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({"gpu": 8, "nodes": 2}, " --gpus=8 --gpus-per-node=4"),
        ({"gpu": 8, "nodes": 2, "gpu_model": "a100"}, " --gpus=a100:8 --gpus-per-node=a100:4"),
        ({"gpu": 8, "nodes": 1}, " --gpus=8"),
        ({"gpu": 1}, " --gpus=1"),
        ({"gpu": 0, "nodes": 2}, ""),
    ],
)
def test_each_node_of_a_job_has_as_many_gpus(resources: dict, expected: str) -> None:
    own = types.SimpleNamespace(set_gres_string=plugin.set_gres_string)
    slurm_fixes.divide_gpus_evenly(own)
    job = types.SimpleNamespace(resources=Resources(resources))
    assert own.set_gres_string(job) == expected


def test_the_plugin_still_asks_for_the_sum_of_gpus_alone() -> None:
    job = types.SimpleNamespace(resources=Resources({"gpu": 8, "nodes": 2}))
    assert plugin.set_gres_string(job) == " --gpus=8"


class Resources(dict):
    """Resources as Snakemake's: by ``get``, or as attributes."""

    __getattr__ = dict.__getitem__


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_all_fixes_are_applied_once() -> None:
    code = (
        "import snakemake_executor_plugin_slurm as p\n"
        "import snakemake_executor_plugin_slurm_jobstep as j\n"
        "from snakemake.scheduling.job_scheduler import JobScheduler\n"
        "from workflow import slurm_fixes\n"
        "places = lambda: (JobScheduler._schedule_reevalutation, JobScheduler._handle_error,"
        " p.get_submit_command, p.set_gres_string,"
        " p.query_job_status, p.Executor.run_job, p.Executor.cancel,"
        " p.Executor.next_seconds_between_status_checks, j.Executor.format_job_exec)\n"
        "before = places(); slurm_fixes.apply(); once = places(); slurm_fixes.apply()\n"
        "assert all(a is not b for a, b in zip(before, once, strict=True))\n"
        "assert all(a is b for a, b in zip(once, places(), strict=True))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize(("dryrun", "no_hooks"), [(False, False), (True, False), (False, True)])
def test_what_begins_and_ends_a_run_is_done_once_for_its_results(
    monkeypatch: pytest.MonkeyPatch, dryrun: bool, no_hooks: bool
) -> None:
    done: list[object] = []
    monkeypatch.setattr(JobScheduler, "schedule", lambda _: done.append("jobs") or is_complete)
    monkeypatch.setattr(slurm_fixes, "_ATTENDED", set())
    for results, is_first in (("a", True), ("a", False), ("b", True)):
        ends = functools.partial(lambda name, success: done.append((name, success)), results)
        begins = functools.partial(done.append, results)
        assert slurm_fixes.attend(results, begins, ends) is is_first
    scheduler = MagicMock(dryrun=dryrun)
    scheduler.workflow.execution_settings.no_hooks = no_hooks
    for is_complete in (True, False):
        done.clear()
        assert JobScheduler.schedule(scheduler) is is_complete
        hooked = ["b", "a", "jobs", ("a", is_complete), ("b", is_complete)]
        assert done == (["jobs"] if dryrun or no_hooks else hooked)


def test_snakemake_still_calls_nothing_of_a_module() -> None:
    import snakemake.api  # first: snakemake.workflow alone is imported in a circle

    Workflow = snakemake.api.Workflow
    workflow, hook = MagicMock(), MagicMock()
    for is_main in (True, False):
        workflow.modifier.is_main_snakefile.return_value = is_main
        for name in ("onstart", "onsuccess", "onerror"):
            setattr(workflow, f"_{name}", None)
            getattr(Workflow, name)(workflow, hook)
            assert getattr(workflow, f"_{name}") is (hook if is_main else None)
