"""`snakemake --profile slurm all` on a real SLURM."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rectify.cluster import slurm
from rectify.cluster.presence import STATES
from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.workflow import TINY, copy_workflow, finish, hold, said, start
from tests.workflow.project import ROOT, call

RESULTS = Path("results") / "tiny"
TABLES = ("table1", "table3", "table6", "controls", "cost")
FIGURES = ("table3", "figure2", "figure4", "figure5", "pang_figure4")
RUN = "scenes_vit-64-patch7_vanilla"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: Cluster, warmed: str) -> Path:
    """Return a copy of the project in which the cluster has made everything."""
    project = copy_workflow(tmp_path_factory.mktemp("smoke"))
    targets = ("all", f"{RESULTS}/environment.txt")
    status = finish(start(project, cluster, *targets, warmed=warmed), project)
    assert status == 0, said(project)[-4000:]
    return project


def rows(cluster: Cluster, project: Path) -> dict[str, list[str]]:
    """Return resources, name and minutes of each completed job of a project, by its comment."""
    fields = "workdir,comment,alloctres,jobname,timelimitraw"
    chosen = ("-X", "--state=COMPLETED", "-S", "now-1hours", "-E", "now", "-o", fields)
    text = cluster.run("sacct", "--noheader", "--parsable2", *chosen)
    split = [row.split("|") for row in text.splitlines()]
    return {comment: row for place, comment, *row in split if place == f"{project}"}


def row_of(cluster: Cluster, project: Path, comment: str) -> list[str]:
    """Return one of the rows; accounting may know it a little later than Snakemake."""
    return wait_until(lambda: rows(cluster, project).get(comment), f"the row of {comment}")


def test_every_table_figure_and_the_page_are_there(finished: Path) -> None:
    for table in TABLES:
        assert (finished / RESULTS / "tables" / f"{table}.csv").stat().st_size > 0
    for figure in FIGURES:
        assert (finished / RESULTS / "figures" / f"{figure}.png").stat().st_size > 0
    assert (finished / RESULTS / "report" / "index.html").stat().st_size > 100_000


def test_a_training_has_a_gpu_and_its_name_says_what_it_is(
    finished: Path, cluster: Cluster
) -> None:
    training = f"rule_train_wildcards_{RUN}_0"
    resources, name, minutes = row_of(cluster, finished, training)
    assert "gres/gpu=1" in resources
    assert "mem=32000M" in resources
    assert name.startswith(slurm.PREFIX)
    assert minutes == "2880"
    logs = finished / ".snakemake" / "slurm_logs" / "rule_train" / f"{RUN}_0"
    assert len(list(logs.glob("*.log"))) == 1


def test_two_gpus_are_two_processes_on_one_node_or_on_two_bit_by_bit(
    finished: Path, cluster: Cluster
) -> None:
    target, weights = RESULTS / "runs" / RUN / "seed-1" / "summary.json", []
    for gpus, nodes in ((2, 1), (1, 2)):
        shutil.rmtree(finished / target.parent, ignore_errors=True)
        asked = {"device_gpus": gpus, "device_nodes": nodes}
        (finished / "asked.json").write_text(json.dumps(asked))
        options, configs = ("--printshellcmds",), (*TINY, "asked.json")
        states = finished / RESULTS / STATES / RUN / "seed-1"
        if nodes == 2:
            hold(states)
        head = start(finished, cluster, f"{target}", configs=configs, options=options)
        if nodes == 2:
            _warn_of_the_time_limit(states, head, cluster)
        assert finish(head, finished) == 0, said(finished)[-4000:]
        assert f"--processes 2 --gpus 2 --nodes {nodes} " in said(finished)
        files = (finished / target.with_name(name) for name in ("gsnr.csv", "model.safetensors"))
        weights.append([file.read_bytes() for file in files])
    assert weights[0] == weights[1]
    log = finished / RESULTS / "logs" / "train" / f"{RUN}--1.log"
    assert "resumed after epoch 1 of 2, step" in log.read_text()
    chosen = ("-nP", "-S", "now-1hours", "-o", "comment,alloctres,nnodes,ntasks,jobname")
    jobs = wait_until(lambda: _with_steps(cluster.run("sacct", *chosen), RUN + "_1"), "both jobs")
    (first, *_), (second, *steps) = jobs
    for resources, nodes in ((first, 1), (second, 2)):
        assert {"gres/gpu=2", f"node={nodes}"} < set(resources[1].split(","))
    assert [step[2:4] for step in steps if step[4] == "sh"] == [["2", "2"]]


def _warn_of_the_time_limit(states: Path, head: subprocess.Popen, cluster: Cluster) -> None:
    """Warn a training on several nodes once it has stopped itself, and see it queued again."""
    wait_until(lambda: head.poll() is not None or not (states / "hold").exists(), "a state")
    job = re.search(r"SLURM job (\d+)", (states / "lease").read_text())[1]
    cluster.run("scontrol", "update", f"JobId={job}", "EndTime=now+100")
    wait_until(lambda: cluster.jobs().get(job) != "RUNNING", f"the end of job {job}")
    wait_until(lambda: cluster.jobs().get(job) == "PENDING", f"requeued job {job}")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")  # no second warning


def _with_steps(text: str, wildcards: str) -> list[list[list[str]]] | None:
    """Return a training's two jobs, once both have ended: its row, and those of its steps."""
    rows = [row.split("|") for row in text.splitlines()]
    first = [number for number, row in enumerate(rows) if row[4].startswith(slurm.PREFIX)]
    spans = zip(first, [*first[1:], len(rows)], strict=True)
    jobs = [rows[start:stop] for start, stop in spans if rows[start][0].endswith(wildcards)]
    return jobs if len(jobs) == 2 else None


def test_a_process_that_fails_on_one_of_two_nodes_ends_the_job_in_one_line(
    cluster: Cluster, tmp_path: Path
) -> None:
    failing = "import os, time\nif rank := os.environ.get('RANK'):\n    "
    failing += "os._exit(3) if rank == '1' else time.sleep(600)\n"
    (tmp_path / "sitecustomize.py").write_text(failing)
    words = {name: tmp_path / name for name in ("config", "data", "states", "output")}
    words |= {"seed": 0, "threads": 1, "processes": 2, "nodes": 2}
    options = " ".join(f"--{name} {value}" for name, value in words.items())
    command = f"PYTHONPATH={tmp_path}:{ROOT} exec {sys.executable} -m rectify train {options}"
    (tmp_path / "job").write_text(f"#!/bin/sh\n{command}\n")
    asked = ("--nodes=2", "--ntasks=2", "--mem=1000", f"--output={tmp_path}/log")
    cluster.run("sbatch", "--wait", *asked, f"{tmp_path}/job", check=False)
    *_, last = (tmp_path / "log").read_text().splitlines()
    assert last == "rectify.processes process 1 on node n2 ended first, with status 3"


def test_tables_figures_and_settings_never_wait_in_the_queue(
    finished: Path, cluster: Cluster
) -> None:
    comments = rows(cluster, finished)
    rules = {comment.removeprefix("rule_").partition("_wildcards")[0] for comment in comments}
    assert "train" in rules
    assert not {"table", "figure", "page", "resolve", "label"} & rules


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
    configs = ("--config", *TINY)
    status = call(finished, "python", "-m", "rectify", "status", *configs)
    assert status.stdout.splitlines()[-2] == "4 done", status.stdout
    profiles = ("--profile", "slurm/profile.yaml", "tests/slurm/site/profile.yaml")
    doctor = call(finished, "python", "-m", "rectify", "doctor", *configs, *profiles)
    assert "ok  partition: test: 2 nodes, gpu:2" in doctor.stdout
    assert "ok  nodes: 2 of the 2 nodes of test are up" in doctor.stdout
    assert "ok  shared files: a job sees" in doctor.stdout
    assert "BAD GPU: a job sees 0" in doctor.stdout  # the GPU of this cluster is a device file
    assert doctor.returncode == 1
