"""A copy of the workflow in a folder of its own, and snakemake in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = (
    "Snakefile",
    "config.yaml",
    "demo.yaml",
    "workflow",
    "rectify",
    "profiles",
    "slurm",
    "envs",
)
BIN = Path(sys.executable).parent


def copy_project(folder: Path) -> Path:
    """Copy what a run of the workflow needs, without results and caches."""
    ignore = shutil.ignore_patterns("__pycache__")
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
