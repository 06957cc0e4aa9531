"""What a host of repositories reads: automatic tests, issue forms, citation; against the files."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from rectify import __version__

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def matrix(path: Path) -> list[dict[str, str]]:
    """Return the machines that jobs are multiplied by."""
    strategies = [job.get("strategy", {}) for job in read(path)["jobs"].values()]
    return [entry for one in strategies for entry in one.get("matrix", {}).get("include", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_each_step_runs_what_is_there(path: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = read(path)["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert len(commands) >= len(jobs)
    for command in commands:
        if "matrix.verb" in command:
            continue
        if command.startswith("make "):
            words = command.partition(" TAG=")[0].split()
            assert set(words[1:]) <= verbs
        files = [word for word in command.split() if word.startswith(("tests/", ".ci/"))]
        assert all((ROOT / file).is_file() for file in files)
        assert files or command.startswith("make ")
    assert {entry["verb"] for entry in matrix(path)} <= verbs


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_job_but_a_release_may_write_and_none_may_hang_for_ever(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    writing = [name for name, job in workflow["jobs"].items() if "permissions" in job]
    assert writing == (["release"] if path.stem == "release" else [])
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())


def test_the_oldest_python_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tried = [entry["python"] for path in WORKFLOWS for entry in matrix(path)]
    oldest = min(tried, key=lambda version: int(version.partition(".")[2]))
    assert project["requires-python"] == f">={oldest}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_is_complete(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in form["body"]} <= KINDS
    assert len({field["id"] for field in fields}) == len(fields) > 0
    assert all(field["attributes"]["label"] for field in fields)


def test_the_citation_has_the_package_s_version_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = read(ROOT / "CITATION.cff")
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["version"] == __version__
    assert project["name"] == f"{citation['title']}-vit"
