"""The cluster of the tests, one for all of them; they are skipped where SLURM is not installed."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a running SLURM with two nodes."""
    lacking = missing()
    if lacking and not os.environ.get("CI"):
        pytest.skip(f"needs {', '.join(lacking)}: see .ci/run")
    assert not lacking, f"needs {', '.join(lacking)}"
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, Cluster(Path(folder)) as running:
        yield running
