"""A copy of the workflow on the cluster of the tests, and snakemake in it."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from tests.slurm.cluster import Cluster
from tests.workflow.project import BIN, ROOT, copy_project, environment

TINY = ("demo.yaml", "tests/slurm/tiny.yaml")
FAULTS = (*TINY, "tests/slurm/faults.yaml")
RESULTS = Path("results") / "faults"
RUN = "digits_vit-s_vanilla"
FIRST = f"{RESULTS}/runs/{RUN}/seed-0/history.csv"
TIMES = ["train_seconds", "images_per_second"]
PROFILES = ("--profile", "slurm", "--profile", "tests/slurm/site")
HOLD = """
import signal

# For the tests: a training stops itself when it has saved the state that they ask for.
_save = Checkpoint.save


def _save_and_hold(self, state):
    _save(self, state)
    hold = self.folder / "hold"
    if hold.exists() and int(self._files()[-1].name[:8]) >= int(hold.read_text()):
        hold.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


Checkpoint.save = _save_and_hold
"""
QUICK = """
# For the tests: look every second instead of ever more seldom.
plugin = sys.modules.get("snakemake_executor_plugin_slurm")
if plugin:
    every_second = property(lambda self: 1, lambda self, seconds: None)
    plugin.Executor.next_seconds_between_status_checks = every_second


rule environment:
    output:
        f"{RESULTS}/environment.txt",
    shell:
        "env > {output:q}"
"""


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow and the tests' overlays into an empty folder."""
    copy_project(folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests" / "slurm", folder / "tests" / "slurm", ignore=ignore)
    with (folder / "Snakefile").open("a") as snakefile:
        snakefile.write(QUICK)
    with (folder / "rectify" / "commands" / "checkpoint.py").open("a") as module:
        module.write(HOLD)
    return folder


def hold(states: Path, number: int = 0) -> None:
    """Have a training stop itself (SIGSTOP) when it has saved its state ``number`` or a later."""
    states.mkdir(parents=True, exist_ok=True)
    (states / "asked").write_text(f"{number}")
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
    warm: bool = False,
) -> subprocess.Popen:
    """Start `snakemake --profile slurm` in the copy; its output goes to ``said.log``.

    ``warm``: the jobs are forks of one process; this spares each of them the imports.
    """
    path = f"{BIN}{os.pathsep}{cluster.environment['PATH']}"
    places = cluster.environment | environment(project)
    prefix = ("python", "-m", "rectify", "warm") if warm else ()
    with (project / "said.log").open("ab") as output:
        return subprocess.Popen(
            (*prefix, "snakemake", *PROFILES, *options, "--configfile", *configs, "--", *targets),
            cwd=project,
            env=places | {"PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


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
    names = ("history.csv", "gsnr.csv", "model.safetensors", "summary.json", "evaluation.csv")
    trained = [RESULTS / "runs" / RUN / f"seed-{seed}" / name for seed in seeds for name in names]
    return [RESULTS / "tables" / f"table6.{suffix}" for suffix in ("csv", "md", "tex")] + trained


def _content(file: Path) -> str | bytes:
    if file.name == "history.csv":
        return pd.read_csv(file).drop(columns=TIMES).to_csv()
    return file.read_bytes()
