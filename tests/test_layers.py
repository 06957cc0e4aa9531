"""The shape of the project: layers, lazy imports, sizes; house rules that a reader cannot see."""

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A module imports from lower rows only; modules of one row do not know each other.
ROWS = [
    ("L0", "records provenance runtime"),
    ("L1", "checkpoints families"),
    ("L1", "weights fetch"),
    ("L1", "vision language captions data.augment"),
    ("L1", "data.images data.fonts data.corruptions"),
    ("L1", "data"),
    ("L2", "rectified"),
    ("L3", "kernels_triton"),
    ("L3", "kernels"),
    ("L3", "gradients"),
    ("L3", "recipes"),
    ("L3", "epochs"),
    ("L3", "training gsnr evaluation features pretraining cost"),
    ("L3", "speed"),
    ("L4", "neighbours"),
    ("L4", "similarity"),
    ("L5", "analysis.robustness"),
    ("L5", "analysis.paper analysis.statistics analysis.style analysis.collect analysis.selection"),
    ("L5", "analysis"),  # helpers of the two below
    ("L5", "analysis.tables analysis.figures"),
    ("L6", "report"),
    ("L7", "config"),
    (
        "L7",
        "commands.assembly commands.checkpoint commands.processes",
    ),  # what several commands build
    ("L7", "warm"),
    ("L7", "commands"),
    ("L7", "__main__"),
]
UPWARD = {("warm", "__main__")}  # a forked child runs a whole command line
REACH = {"L4": {"L4"}, "L5": {"L0", "L5"}, "L6": {"L0", "L5"}}  # elsewhere: every lower row
LANGUAGE = ("language", "captions", "weights", "checkpoints", "families")
APART = [{"data", "vision"}, *({one, two} for one in ("data", "vision") for two in LANGUAGE)]


def row(module: str) -> int:
    """Return the row of a module given without ``rectify.``; its package's row if it has none."""
    for index, (_, names) in enumerate(ROWS):
        if module in names.split():
            return index
    assert "." in module, f"{module}: tests/test_layers.py names no row for it"
    return row(module.rpartition(".")[0])


def allowed(module: str, target: str) -> bool:
    """Say whether ``module`` may import ``target``."""
    if (module, target) in UPWARD:
        return True
    layer, other = ROWS[row(module)][0], ROWS[row(target)][0]
    apart = {module.partition(".")[0], target.partition(".")[0]} in APART
    return row(target) < row(module) and not apart and other in REACH.get(layer, {other})


def targets(tree: ast.Module, modules: set[str]) -> set[str]:
    """Return the modules of the package that a syntax tree imports, at any depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("rectify.") for name in names} & modules


def violations(trees: dict[str, ast.Module]) -> list[str]:
    """Return one sentence for each import that the layers forbid."""
    return [
        f"rectify.{module} must not import rectify.{target}"
        for module, tree in trees.items()
        for target in sorted(targets(tree, set(trees)))
        if not allowed(module, target)
    ]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of each module of the package, by its name without ``rectify.``."""
    package = ROOT / "rectify"
    return {
        ".".join(path.relative_to(package).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
        if path.name != "__init__.py"
    }


def test_modules_import_only_from_lower_layers(trees):
    assert violations(trees) == []


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("records", "from rectify.training import train"),  # upward
        ("gsnr", "from rectify import training"),  # sideways
        ("data.images", "import rectify.vision"),  # the two do not know each other
        ("similarity", "def late():\n    from rectify.records import Table"),  # none of ours, ever
        ("analysis.tables", "from rectify.features import load_features"),  # lower, but torch
        ("report", "from rectify.similarity import mutual_knn"),
        ("evaluation", "from rectify.config import Run"),
    ],
)
def test_a_forbidden_import_is_found(module, statement, trees):
    broken = dict.fromkeys(trees, ast.Module([], [])) | {module: ast.parse(statement)}
    broken |= {name: ast.Module([], []) for name in all_named() - set(broken)}
    assert [line.split()[0] for line in violations(broken)] == [f"rectify.{module}"]


def all_named() -> set[str]:
    """Return the modules that the rows name, so that a test does not depend on the files."""
    return {name for _, names in ROWS for name in names.split()}


def test_packages_themselves_are_empty_of_imports(trees):
    for path in (ROOT / "rectify").rglob("__init__.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        assert not [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], path


@pytest.mark.parametrize(
    "module", ["rectify.records", "rectify.config", "rectify.analysis.tables", "rectify.report"]
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


def test_no_rule_retries_by_itself():
    """A rule's own retries multiply inside a SLURM job; the profile asks for them once."""
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    assert len(rules) > 1
    assert [path.name for path in rules if "retries:" in path.read_text()] == []


def test_no_tracked_file_is_large():
    names = subprocess.run(
        ["git", "ls-files", "-z"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert {path.name: path.stat().st_size for path in paths if path.stat().st_size > 500_000} == {}
