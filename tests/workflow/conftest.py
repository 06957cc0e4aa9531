"""A fresh copy of the workflow for a test."""

from pathlib import Path

import pytest

from tests.workflow.project import copy_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a fresh copy of the workflow."""
    return copy_project(tmp_path)
