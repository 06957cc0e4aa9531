"""Copies of the workflow: a fresh one for each test, and one in which everything was made."""

from pathlib import Path

import pytest

from tests.workflow.project import SMOKE, copy_project, warm


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a fresh copy of the workflow."""
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy in which the smoke configuration was run to its end."""
    project = copy_project(tmp_path_factory.mktemp("smoke"))
    said = warm(project, "--configfile", *SMOKE, "--", "all")
    assert said.returncode == 0, said.stdout[-4000:]
    return project
