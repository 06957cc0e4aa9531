"""The package as others install it: what is in its files, and the library without any extra."""

import ast
import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement

from rectify.__main__ import PACKAGE_OF
from tests.helpers.notebooks import code_of
from tests.helpers.pages import ROOT, blocks_of

pytestmark = pytest.mark.slow
BUILD = (
    "from setuptools import build_meta\n"
    "build_meta.build_wheel('dist')\n"
    "build_meta.build_sdist('dist')\n"
)
COMES_WITH_THE_CORE = {"pydantic_core", "tokenizers", "triton"}  # of pydantic, transformers, torch
NOT_IN_THE_CORE = (
    "av",
    "h5py",
    "matplotlib",
    "plyfile",
    "scipy",
    "seaborn",
    "sklearn",
    "snakemake",
    "vl_convert",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a wheel and an sdist."""
    folder = tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(ROOT / name, folder)
    copytree(ROOT / "rectify", folder / "rectify", ignore=ignore_patterns("__pycache__"))
    run(sys.executable, "-c", BUILD, cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def core(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the wheel and what it requires, without extras."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        wheel.extractall(site)
    (package,) = importlib.metadata.distributions(path=[str(site)])
    for required in closure(package.requires or []):
        places = {file.parts[0] for file in required.files or []} - {"..", "bin", "__pycache__"}
        for name in places:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(required.locate_file(name))))
    return folder / "bin" / "python"


def closure(lines: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """Yield what requirements need, each with what it needs itself, as it is installed here."""
    waiting = [(line, "") for line in lines]
    seen = set()
    while waiting:
        line, extra = waiting.pop()
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": extra}):
            continue
        for wanted in {(needed.name, extra) for extra in ("", *needed.extras)} - seen:
            seen.add(wanted)
            distribution = importlib.metadata.distribution(needed.name)
            waiting += [(line, wanted[1]) for line in distribution.requires or []]
            yield distribution


def run(*words: str | Path, cwd: Path) -> str:
    """Run a program and return what it printed; what it said is in the error if it fails."""
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_and_sdist_hold_every_file_of_the_package(built: Path) -> None:
    with zipfile.ZipFile(*built.glob("*.whl")) as wheel:
        in_wheel = {name for name in wheel.namelist() if name.startswith("rectify/")}
    with tarfile.open(*built.glob("*.tar.gz")) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    tree = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("rectify/**/*")
        if path.is_file() and path.name != "README.md" and "__pycache__" not in path.parts
    }
    assert in_wheel == tree
    assert {name for name in inside if name.startswith("rectify/")} == tree


def imported() -> set[str]:
    """Return the packages that the code imports anywhere, under the names of its imports."""
    names: set[str] = set()
    for path in (ROOT / "rectify").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"rectify"}


def test_whatever_is_imported_is_required_or_named_as_that_of_an_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {Requirement(line).name for line in project["dependencies"]}
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    optional = {Requirement(line).name for line in extras} - required
    packages = importlib.metadata.packages_distributions()
    for name in imported() - COMES_WITH_THE_CORE:
        if not {owner.lower().replace("_", "-") for owner in packages.get(name, ())} & required:
            assert PACKAGE_OF.get(name, name.replace("_", "-")) in optional


def test_the_library_s_examples_run_without_any_extra(core: Path, tmp_path: Path) -> None:
    examples = [*blocks_of("docs/library.md", "python"), code_of("similarity-of-features")]
    absent = (
        "import importlib.util\n"
        f"print([n for n in {NOT_IN_THE_CORE} if importlib.util.find_spec(n)])\n"
        "import rectify\nprint(rectify.__file__)\n"
    )
    printed = run(core, "-I", "-c", "\n".join((absent, *examples)), cwd=tmp_path).splitlines()
    assert printed[0] == "[]"
    assert Path(printed[1]).is_relative_to(core.parents[1])
    assert "torch.Size([1, 1000])" in printed


def test_a_command_says_in_one_line_which_extra_it_needs(core: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [core, "-I", "-m", "rectify", "plan", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("Install rectify-vit[workflow].")
    assert "needs the package snakemake-interface-logger-plugins" in line
