"""`snakemake --profile slurm all` on a real SLURM, and the plugin's faults that are mended."""

import asyncio
import contextlib
import logging
import subprocess
import types
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import snakemake_executor_plugin_slurm as plugin

from rectify import slurm
from rectify.config import FIGURES, TABLES
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.workflow import TINY, copy_workflow, finish, said, start
from tests.workflow.project import call

RESULTS = Path("results") / "tiny"
ORIGINAL = plugin.query_job_status


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster) -> Path:
    """Return a copy of the project in which the cluster has made everything."""
    project = copy_workflow(tmp_path_factory.mktemp("smoke"))
    targets = ("all", f"{RESULTS}/environment.txt")
    status = finish(start(project, cluster, *targets, warm=True), project)
    assert status == 0, said(project)[-4000:]
    return project


def rows(cluster: Cluster, project: Path) -> dict[str, list[str]]:
    """Return resources, name and minutes of each completed job of a project, by its comment."""
    fields = "workdir,comment,alloctres,jobname,timelimitraw"
    chosen = ("-X", "--state=COMPLETED", "-S", "now-1hours", "-E", "now", "-o", fields)
    text = cluster.run("sacct", "--noheader", "--parsable2", *chosen)
    found = [row.split("|") for row in text.splitlines()]
    return {comment: row for place, comment, *row in found if place == f"{project}"}


def row_of(cluster: Cluster, project: Path, comment: str) -> list[str]:
    """Return one of the rows; accounting may know it a little later than Snakemake."""
    return wait_until(lambda: rows(cluster, project).get(comment), f"the row of {comment}")


def test_every_table_figure_and_the_page_are_there(finished: Path) -> None:
    for table in (*TABLES, "controls"):
        assert (finished / RESULTS / "tables" / f"{table}.csv").stat().st_size > 0
    for figure in ("table3", *FIGURES):
        assert (finished / RESULTS / "figures" / f"{figure}.png").stat().st_size > 0
    assert (finished / RESULTS / "report" / "index.html").stat().st_size > 100_000


def test_a_training_has_a_gpu_and_its_name_says_what_it_is(
    finished: Path, cluster: Cluster
) -> None:
    training = "rule_train_wildcards_digits_vit-s_vanilla_0"
    resources, name, minutes = row_of(cluster, finished, training)
    assert "gres/gpu=1" in resources
    assert "mem=32000M" in resources
    assert name.startswith(slurm.PREFIX)
    assert minutes == "2880"
    logs = finished / ".snakemake" / "slurm_logs" / "rule_train" / "digits_vit-s_vanilla_0"
    assert len(list(logs.glob("*.log"))) == 1


def test_a_training_on_two_gpus_is_two_processes_on_one_node(
    finished: Path, cluster: Cluster
) -> None:
    (finished / "two.json").write_text('{"device_gpus": 2}')
    folder = RESULTS / "runs" / "digits_vit-s_vanilla" / "seed-1"
    options, configs = ("--printshellcmds",), (*TINY, "two.json")
    target = str(folder / "summary.json")
    head = start(finished, cluster, target, configs=configs, options=options)
    assert finish(head, finished) == 0, said(finished)[-4000:]
    training = "rule_train_wildcards_digits_vit-s_vanilla_1"
    resources, *_ = row_of(cluster, finished, training)
    assert "gres/gpu=2" in resources
    assert "node=1" in resources.split(",")
    assert "rectify train" in said(finished)
    assert "--processes 2 " in said(finished)
    assert (finished / folder / "gsnr.csv").stat().st_size > 0


def test_tables_figures_and_settings_never_wait_in_the_queue(
    finished: Path, cluster: Cluster
) -> None:
    comments = rows(cluster, finished)
    rules = {comment.removeprefix("rule_").partition("_wildcards")[0] for comment in comments}
    assert "train" in rules
    assert not {"table", "figure", "page", "resolve"} & rules


def test_jobs_that_share_one_ask_for_the_memory_and_cores_of_one(
    finished: Path, cluster: Cluster
) -> None:
    jobs = rows(cluster, finished).items()
    ((resources, _, minutes),) = [row for comment, row in jobs if "blocks" in comment]
    assert "cpu=1" in resources
    assert "mem=4000M" in resources
    assert minutes == "20"  # two blocks of ten


def test_jobs_have_no_network_for_models(finished: Path) -> None:
    log = (finished / RESULTS / "environment.txt").read_text()
    assert "HF_HUB_OFFLINE=1" in log


def test_an_efficiency_report_is_left(finished: Path) -> None:
    reports = (finished / ".snakemake" / "slurm_efficiency").glob("efficiency_report_*.csv")
    assert "rule_train" in next(reports).read_text()


def test_status_and_doctor_know_the_cluster(
    finished: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(key, cluster.environment[key])
    configs = ("--config", "config.yaml", *TINY)
    status = call(finished, "python", "-m", "rectify", "status", *configs)
    assert status.stdout.splitlines()[-1] == "6 done", status.stdout
    profiles = ("--profile", "slurm/profile.yaml", "tests/slurm/site/profile.yaml")
    doctor = call(finished, "python", "-m", "rectify", "doctor", *configs, *profiles)
    assert "ok  partition: test: 2 nodes, gpu:2" in doctor.stdout
    assert "ok  shared files: a job sees" in doctor.stdout
    assert "BAD GPU: a job sees 0" in doctor.stdout  # the GPU of this cluster is a device file
    assert doctor.returncode == 1


def asked(query: object, command: str) -> tuple:
    return asyncio.run(query(command, logging.getLogger("test")))


def mended() -> types.SimpleNamespace:
    own = types.SimpleNamespace(query_job_status=ORIGINAL)
    slurm.mend(own)
    return own


def test_a_cancelled_job_and_an_outage_are_told_apart_from_running_ones() -> None:
    query = mended().query_job_status
    assert asked(query, "echo '7|CANCELLED by 1000'")[0] == {"7": "CANCELLED"}
    assert asked(query, "echo '7|RUNNING'")[0] == {"7": "RUNNING"}
    assert asked(query, "false") == ({}, 0.0)


@pytest.mark.parametrize(("tool", "state"), [("squeue", "CANCELLED"), ("sacct", "PREEMPTED")])
def test_a_preempted_job_that_the_queue_shows_has_ended(tool: str, state: str) -> None:
    async def query(command: str, logger: object) -> tuple:
        return {"7": "PREEMPTED", "8": "PENDING"}, 0.1

    own = types.SimpleNamespace(query_job_status=query)
    slurm.mend(own)
    assert asked(own.query_job_status, f"{tool} --me")[0] == {"7": state, "8": "PENDING"}


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> object:
    """What `mend_executor` finds in the plugin, mended."""

    class Executor:
        logger = logging.getLogger("plugin")
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

    own = types.SimpleNamespace(Executor=Executor)
    slurm.mend_executor(own)
    slurm.mend_executor(own)
    slurm.mend_executor(None)
    monkeypatch.setattr(slurm, "OUTAGE_SECONDS", 0)
    return own.Executor()


def test_jobs_are_submitted_when_the_controller_answers_again(
    executor: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [False, False, True, True]

    def ask(*command: str) -> str:
        if not answers.pop(0):
            raise ValueError("slurm: squeue must succeed, got no connection.")
        return ""

    monkeypatch.setattr(slurm, "ask", ask)
    executor.run_job("first")
    executor.run_job("second")
    assert (executor.did, answers) == (["first", "second"], [])
    assert caplog.text.count("Jobs are submitted as soon as it does") == 2


def test_ctrl_c_reaches_every_job(executor: object, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def ask(*command: str) -> str:
        commands.append(command)
        row = f"|rectify_a|RUNNING|0:01|{Path.cwd()}|rule_train_wildcards_x\n"
        return f"7{row}8{row}" if "--me" in command else ""

    monkeypatch.setattr(slurm, "ask", ask)
    executor.cancel()
    assert executor.did == ["cancel"]  # and none is submitted any more
    assert commands[-1] == ("scancel", "7", "8")


def test_ctrl_c_in_an_outage_says_that_jobs_may_go_on(
    executor: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slurm.subprocess, "run", MagicMock(side_effect=FileNotFoundError("gone")))
    executor.cancel()
    assert "squeue must answer, got gone" in caplog.text
    assert "Jobs may go on: look for them with `squeue --me`" in caplog.text


def test_states_are_asked_for_before_a_controller_forgets_them(executor: object) -> None:
    assert executor.next_seconds_between_status_checks == slurm.POLL_SECONDS
    executor.next_seconds_between_status_checks = 20
    assert executor.next_seconds_between_status_checks == 20


@pytest.mark.parametrize("path", ["it's", 'a "b"', "back\\slash", "line\nbreak"])
def test_a_path_that_jobs_would_not_quote_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"must have no quotes, .* Rename the folder\.$") as caught:
        slurm.begin(Path("/home/me"), path, is_alone=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must have no quotes"):
        slurm.begin(Path("/home") / path, "results", is_alone=True)


@pytest.mark.parametrize("is_script", [True, False])
def test_a_step_that_is_a_script_ignores_the_signals(is_script: bool) -> None:
    settings = types.SimpleNamespace(pass_command_as_script=is_script)
    workflow = types.SimpleNamespace(executor_settings=settings)

    class Executor(types.SimpleNamespace):
        def format_job_exec(self, job: str) -> str:
            return f"kill -USR2 $$; kill $$; echo {job}"

    module = types.SimpleNamespace(Executor=Executor)
    slurm.mend_step(module)
    slurm.mend_step(module)
    command = Executor(workflow=workflow).format_job_exec("alive")
    assert command.count("trap") == is_script
    done = subprocess.run(["sh"], input=command, capture_output=True, text=True, check=False)
    assert done.stdout == ("alive\n" if is_script else "")


def test_mending_twice_mends_once_and_another_plugin_is_left_alone() -> None:
    own = mended()
    once = own.query_job_status
    slurm.mend(own)
    assert own.query_job_status is once
    other = types.SimpleNamespace()
    slurm.mend(other)
    assert not vars(other)


def still_active(monkeypatch: pytest.MonkeyPatch, answer: tuple) -> bool:
    """Say whether the plugin goes on to wait for a job, given an answer of its query."""

    async def query(command: str, logger: object) -> tuple:
        return answer

    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    executor = MagicMock(status_rate_limiter=contextlib.nullcontext(), run_uuid="run")
    executor.get_status_command.return_value = "squeue"
    executor.workflow.executor_settings.init_seconds_before_status_checks = 1
    executor.workflow.executor_settings.status_attempts = 1
    for counter in ("calls", "failures", "total_seconds", "min_seconds", "max_seconds"):
        setattr(executor, f"_status_query_{counter}", 0)
    executor.next_seconds_between_status_checks = 1

    async def waited_for() -> list:
        jobs = [MagicMock(external_jobid="7", aux={})]
        return [job async for job in plugin.Executor.check_active_jobs(executor, jobs)]

    return bool(asyncio.run(waited_for()))


def test_the_plugin_still_needs_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails, upstream has mended it: delete ``slurm.mend`` and what calls it."""
    assert still_active(monkeypatch, ({"7": "CANCELLED by 1000"}, 0.1))  # it ended
    assert still_active(monkeypatch, ({"7": "PREEMPTED"}, 0.1))  # so did this
    assert not still_active(monkeypatch, (None, None))  # nobody knows: it is forgotten


def test_what_the_mend_gives_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not still_active(monkeypatch, ({"7": "CANCELLED"}, 0.1))
    assert still_active(monkeypatch, ({}, 0.0))
