"""A copy of the workflow in a folder of its own, and snakemake in it."""

import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.processes import warm_address
from tests.helpers.snakemakes import run_snakemake

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "Snakefile",
    "config",
    "config.yaml",
    "demo.yaml",
    "demo-pang.yaml",
    "demo-smollm2.yaml",
    "workflow",
    "rectify",
    "profiles",
    "slurm",
    "envs",
)
BIN = Path(sys.executable).parent
SMOKE = ("demo.yaml", "tests/smoke.yaml")


def copy_project(folder: Path) -> Path:
    """Copy what a run of the workflow needs, without results; with bytecode, not to make it often.

    Python knows by size and time whether it is that of a file, also of one that a test edits.
    """
    compileall.compile_dir(ROOT / "rectify", quiet=1)  # what is not compiled yet
    ignore = shutil.ignore_patterns("*.opt-*.pyc")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy(source, folder / part)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "smoke.yaml", folder / "tests" / "smoke.yaml")
    return folder


def environment(project: Path) -> dict[str, str]:
    """Return the environment in which `python -m rectify` is the copy's."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"}


def call(project: Path, *command: str, seconds: int = 600) -> subprocess.CompletedProcess:
    """Run a program in the copy and return what it said, standard error included."""
    if command[0] == "snakemake":
        return run_snakemake(command[1:], project, environment(project), seconds)
    return subprocess.run(
        command,
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )


def warm(project: Path, *options: str, seconds: int = 900) -> subprocess.CompletedProcess:
    """Run snakemake in the copy, whose modules are those of the tests; its jobs are forks."""
    words = ("--cores", "2", "--scheduler", "greedy", *options)  # the other one starts a solver
    variables = environment(project) | {"RECTIFY_WARM": warm_address()}
    return run_snakemake(words, project, variables, seconds)


def planned(project: Path, *options: str) -> dict[str, int]:
    """Return the number of jobs by rule in a dry run, without the rules that only gather."""
    said = call(project, "snakemake", "-n", "--quiet", "rules", "--cores", "1", *options)
    assert said.returncode == 0, said.stdout
    return counted(said.stdout)


def counted(said: str) -> dict[str, int]:
    """Return the number of jobs by rule that a dry run has said, likewise."""
    rows = re.findall(r"^(\S+) +(\d+)$", said.partition("Job stats:")[2], re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("total", "all")}
