"""What the README and docs/extending.md show, done step by step in a copy of the repository."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.workflow.project import ROOT, call, copy_project

FENCED = re.compile(
    r"^```(?:python|yaml|rst)\n(?:#|\.\.) ([\w./-]+)(?: \(([^)\n]+)\))?\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^    (snakemake .*--configfile .*)$", re.MULTILINE)
SMALLEST = """
seeds: [0]
languages: {llama-s: {pretraining: {steps: 2}}}
data: {bits: {items: 64}}
training: {epochs: 2}
gsnr: {batches: 1}
experiments: {counting: {position: 2, control: random}}
"""


class Step(NamedTuple):
    """A block of a page: the file that it is for, where in it, and what is to be put there."""

    path: str
    where: str
    text: str


def steps(page: str) -> Iterator[Step]:
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in FENCED.findall(text):
        yield Step(*found)


def follow(step: Step, project: Path) -> None:
    """Do what a block says: a new file, the end of an old one, or below the start of a name."""
    file = project / step.path
    if not step.where:
        assert not file.exists(), step.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(step.text, encoding="utf-8")
        return
    before = file.read_text(encoding="utf-8")
    if step.where == "at the end":
        file.write_text(before + step.text, encoding="utf-8")
        return
    start = re.search(rf"^{step.where.removeprefix('in ')}\b.*\{{\n", before, re.MULTILINE)
    assert start is not None, step
    file.write_text(before[: start.end()] + step.text + before[start.end() :], encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository in which everything of both pages was done."""
    project = copy_project(tmp_path_factory.mktemp("extended"))
    shutil.copytree(ROOT / "tests" / "helpers", project / "tests" / "helpers")
    for name in ("tests/conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, project / name)
    for page in ("README.md", "docs/extending.md"):
        for step in steps(page):
            follow(step, project)
    return project


def commands(page: str) -> list[str]:
    found = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    return [command for command in found if "my-target" not in command]


def test_every_block_of_the_page_names_its_file() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    assert len(list(steps("docs/extending.md"))) == text.count("\n```\n") >= 20


def test_the_tests_that_come_with_the_recipes_pass(extended: Path) -> None:
    tests = [step.path for step in steps("docs/extending.md") if step.path.startswith("tests/")]
    assert len(tests) >= 5
    said = call(extended, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("command", [*commands("README.md"), *commands("docs/extending.md")])
def test_every_configuration_of_the_pages_is_planned(extended: Path, command: str) -> None:
    program, *options = command.split(" #")[0].split()
    said = call(extended, program, "-n", "--quiet", "rules", *options)
    assert said.returncode == 0, said.stdout
    assert re.search(r"^(table|figure) +\d+$", said.stdout, re.MULTILINE), said.stdout


def test_a_task_from_outside_of_the_package_trains_and_fills_its_table(extended: Path) -> None:
    (extended / "smallest.yaml").write_text(SMALLEST, encoding="utf-8")
    configs = ("--configfile", "demo.yaml", "counting.yaml", "smallest.yaml")
    said = call(
        extended, "rectify", "warm", "snakemake", "--cores", "2", *configs, "--", "counting"
    )
    assert said.returncode == 0, said.stdout
    table = (extended / "results" / "counting" / "tables" / "counting.csv").read_text()
    assert "inserted, random frozen layer" in table
    assert "auxiliary path, random frozen layer" in table
    assert "mean error" in table
