"""The cluster of the tests, one for all of them; they are skipped where SLURM is not installed."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.workflow import copy_workflow, run_here
from tests.workflow.project import ROOT, environment


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C reach what the tests start, also where pytest runs in a shell's background.

    Such a job ignores it, and hands that on.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a running SLURM with two nodes."""
    lacking = missing()
    if lacking and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(lacking)}: see .ci/run")
    assert not lacking, f"needs {', '.join(lacking)}"
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project."""
    return copy_workflow(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="session")
def warmed(copied: Path) -> Iterator[str]:
    """Return the address of a warm process, for RECTIFY_WARM.

    It spares each job the imports, of its Snakemake too.
    """
    words = (sys.executable, "tests/slurm/served.py", "sh", "-c", "echo $RECTIFY_WARM; cat")
    paths = {"PYTHONPATH": f"{copied}{os.pathsep}{ROOT}"}  # the second one for `tests.helpers`
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=copied, env=environment(copied) | paths, **pipes) as process:
        yield process.stdout.readline().strip()  # it ends with its standard input


@pytest.fixture(scope="session")
def undisturbed(copied: Path, warmed: str) -> Path:
    """Return a copy of the project in which nothing went wrong, without a cluster."""
    run_here(copied, warmed)
    return copied
