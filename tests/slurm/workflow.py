"""A copy of the workflow on the cluster of the tests, and snakemake in it."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from tests.slurm.cluster import Cluster
from tests.workflow.project import BIN, ROOT, call, copy_project, environment

TINY = ("demo.yaml", "tests/slurm/tiny.yaml")
FAULTS = (*TINY, "tests/slurm/faults.yaml")
RESULTS = Path("results") / "faults"
RUN = "digits_vit-64_vanilla"
FIRST = f"{RESULTS}/runs/{RUN}/seed-0/history.csv"
TIMES = ["train_seconds", "items_per_second"]
ON_CLUSTER = (
    *("--snakefile", "on_cluster.smk"),
    *("--profile", "slurm", "--profile", "tests/slurm/site"),
)


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow, and what the tests lay over it, into an empty folder."""
    copy_project(folder)
    ignore = shutil.ignore_patterns("__pycache__")
    tests = shutil.copytree(ROOT / "tests" / "slurm", folder / "tests" / "slurm", ignore=ignore)
    shutil.copy(tests / "on_cluster.smk", folder)
    shutil.copy(tests / "hooks" / "sitecustomize.py", folder)  # which is on the jobs' PYTHONPATH
    return folder


def hold(states: Path, more: int = 1) -> None:
    """Have a training stop itself (SIGSTOP) when it has saved so many more states."""
    states.mkdir(parents=True, exist_ok=True)
    last = max((int(state.name[:8]) for state in states.glob("0*.pt")), default=-1)
    (states / "asked").write_text(f"{last + more}")
    (states / "asked").rename(states / "hold")


def held(states: Path) -> int | None:
    """Return the number of the process that has stopped itself, once it has."""
    if (states / "hold").exists():
        return None
    process = int(re.match(r"process (\d+) on", (states / "lease").read_text())[1])
    stat = (Path("/proc") / f"{process}" / "stat").read_text()
    return process if stat.rpartition(")")[2].split()[0] == "T" else None


def start(
    project: Path,
    cluster: Cluster,
    *targets: str,
    configs: Sequence[str] = TINY,
    options: Sequence[str] = (),
    warmed: str = "",
) -> subprocess.Popen:
    """Start `snakemake --profile slurm` in the copy; its output goes to ``said.log``.

    ``warmed``: the address of a process of which the jobs' commands are forks.
    """
    path = f"{BIN}{os.pathsep}{cluster.environment['PATH']}"
    variables = cluster.environment | environment(project)
    variables |= {"RECTIFY_WARM": warmed} if warmed else {}
    command = ("snakemake", *ON_CLUSTER, *options, "--configfile", *configs, "--", *targets)
    with (project / "said.log").open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=project,
            env=variables | {"PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_here(project: Path, warmed: str) -> str:
    """Run the workflow on this machine until its table is there; return what Snakemake said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECTIFY_WARM", warmed)
        done = call(project, "snakemake", "--cores", "2", "--configfile", *FAULTS, "--", "table6")
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def said(project: Path) -> str:
    """Return everything that snakemake has said so far in the copy."""
    return (project / "said.log").read_text()


def finish(head: subprocess.Popen, project: Path, seconds: float = 1800) -> int:
    """Wait for snakemake and return its exit status; end it after the limit."""
    try:
        return head.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(head)
        raise AssertionError(f"snakemake hung: {said(project)[-3000:]}") from None


def kill(head: subprocess.Popen) -> None:
    """End snakemake and its local jobs at once; its jobs on the cluster stay."""
    os.killpg(head.pid, signal.SIGKILL)
    head.wait()


def lost(project: Path, undisturbed: Path, *seeds: int) -> list[str]:
    """Return the results that are missing, or not byte for byte those of the undisturbed copy.

    The tables, and all that the trainings of ``seeds`` leave; times are left out.
    """
    return [
        str(file)
        for file in _results(seeds)
        if not (project / file).is_file()
        or _content(project / file) != _content(undisturbed / file)
    ]


def _results(seeds: Sequence[int]) -> list[Path]:
    names = ("history.csv", "gsnr.csv", "model.safetensors", "summary.json", "scores.csv")
    trained = [RESULTS / "runs" / RUN / f"seed-{seed}" / name for seed in seeds for name in names]
    return [RESULTS / "tables" / f"table6.{suffix}" for suffix in ("csv", "md", "tex")] + trained


def _content(file: Path) -> str | bytes:
    if file.name == "history.csv":
        history = pd.read_csv(file)
        return history[~history["metric"].isin(TIMES)].to_csv()
    return file.read_bytes()
