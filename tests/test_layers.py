"""The shape of the project: layers, lazy imports, sizes; house rules that a reader cannot see."""

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "module",
    [
        "rectify.results.tables",
        "rectify.experiment.grid",
        "rectify.targets.grid",
        "rectify.analysis.page",
    ],
)
def test_what_reads_tables_starts_without_torch(module):
    assert_no_torch(f"import {module}")


def test_help_starts_without_torch():
    assert_no_torch(
        "import contextlib, runpy; sys.argv = ['rectify', '--help']\n"
        "with contextlib.suppress(SystemExit): runpy.run_module('rectify', run_name='__main__')"
    )


def assert_no_torch(statements: str) -> None:
    """Run statements in a fresh interpreter and look for torch there."""
    code = (
        f"import sys\n{statements}\nsys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package, by its name without ``rectify.``."""
    package = ROOT / "rectify"
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
        if path.name != "__init__.py"
    }


def test_files_and_functions_stay_short(trees):
    lengths = {
        f"rectify.{module}: {node.name}": node.end_lineno - node.lineno + 1
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
    assert statistics.median(lengths.values()) <= 12
    files = {path: len(path.read_text().splitlines()) for path in (ROOT / "rectify").rglob("*.py")}
    assert {path.name: lines for path, lines in files.items() if lines > 400} == {}


def test_commands_only_parse_call_and_write():
    files = {
        path: path.read_text().splitlines() for path in (ROOT / "rectify/commands").glob("*.py")
    }
    assert {path.name: len(lines) for path, lines in files.items() if len(lines) > 70} == {}


def test_no_rule_retries_by_itself():
    """A rule's own retries multiply inside a SLURM job; the profile asks for them once."""
    rules = [ROOT / "workflow/Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    assert len(rules) > 1
    assert [path.name for path in rules if "retries:" in path.read_text()] == []


def test_each_rule_that_asks_for_gpus_refuses_to_go_on_without():
    """Else a job whose GPU is broken computes on the CPU, and nobody is told."""
    texts = [path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk")]
    rules = [rule for text in texts for rule in re.split(r"(?m)^rule ", text) if " gpu=" in rule]
    assert len(rules) > 5
    assert [rule for rule in rules if "--gpus {resources.gpu}" not in rule] == []


def test_no_tracked_file_is_large():
    names = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert {path.name: path.stat().st_size for path in paths if path.stat().st_size > 500_000} == {}
