"""The cluster of the tests, one for all of them; they are skipped where SLURM is not installed."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing
from tests.slurm.workflow import FAULTS, copy_workflow
from tests.workflow.project import call


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
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which nothing went wrong, without a cluster."""
    project = copy_workflow(tmp_path_factory.mktemp("undisturbed"))
    done = call(
        project,
        *("python", "-m", "rectify", "warm", "snakemake", "--cores", "2"),
        *("--configfile", *FAULTS, "--", "table6"),
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return project
