"""A copy of the workflow on the cluster of the tests, and snakemake in it."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.workflow.project import BIN, ROOT, copy_project, environment

CONFIG = ("--configfile", "demo.yaml", "tests/slurm/tiny.yaml", "--")
PROFILES = ("--profile", "slurm", "--profile", "tests/slurm/site")
QUICK = """
# For the tests: look every second instead of ever more seldom.
plugin = sys.modules.get("snakemake_executor_plugin_slurm")
if plugin:
    every_second = property(lambda self: 1, lambda self, seconds: None)
    plugin.Executor.next_seconds_between_status_checks = every_second
"""


def copy_workflow(folder: Path) -> Path:
    """Copy the workflow and the tests' overlays into an empty folder."""
    copy_project(folder)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests" / "slurm", folder / "tests" / "slurm", ignore=ignore)
    with (folder / "Snakefile").open("a") as snakefile:
        snakefile.write(QUICK)
    return folder


def start(project: Path, cluster: Cluster, *targets: str) -> subprocess.Popen:
    """Start `snakemake --profile slurm` in the copy; its output goes to ``said.log``."""
    place = environment(project)
    path = f"{BIN}{os.pathsep}{cluster.environment['PATH']}"
    with (project / "said.log").open("ab") as output:
        return subprocess.Popen(
            ("snakemake", *PROFILES, *CONFIG, *targets),
            cwd=project,
            env=cluster.environment | place | {"PATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def said(project: Path) -> str:
    """Return everything that snakemake has said so far in the copy."""
    return (project / "said.log").read_text()


def finish(head: subprocess.Popen, project: Path, seconds: float = 300) -> int:
    """Wait for snakemake and return its exit status; never longer than the limit."""
    try:
        return head.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        raise AssertionError(f"snakemake hung: {said(project)[-3000:]}") from None


def run(project: Path, cluster: Cluster, *targets: str, seconds: float = 300) -> int:
    """Run snakemake to its end."""
    return finish(start(project, cluster, *targets), project, seconds)
