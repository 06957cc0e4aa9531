"""`make demo` where the packages of envs/demo.lock can be installed, and where they cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = """#!/bin/sh
echo "$@" >> asked.txt
{}
"""


@pytest.fixture
def make(tmp_path: Path):
    """Return a function that makes the demo in a project whose set-up is done, with this uv."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    link = tmp_path / ".venv/bin/python"
    link.parent.mkdir(parents=True)
    link.touch(0o755)
    files = ["pyproject.toml", *(f"envs/{name}.lock" for name in ("demo", "requirements", "uv"))]
    made = [".tools/bin/uv", ".venv/.ready"]  # after what they are made of
    for age, name in enumerate([*files, *made]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1e9 + age, 1e9 + age))

    def demo(script: str) -> str:
        uv = tmp_path / ".tools/bin/uv"
        uv.write_text(UV.format(script))
        uv.chmod(0o755)
        os.utime(uv, (1e9 + 4.5, 1e9 + 4.5))
        command = ["make", "demo", "RUN=echo runs", "CORES=1"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return demo


def test_with_a_network_the_packages_are_installed_once_and_used(make, tmp_path: Path) -> None:
    for _ in range(2):
        said = make("mkdir .demo")
        assert "runs --configfile demo.yaml demo-smollm2.yaml -- all" in said
        assert "toy" not in said
    [asked] = (tmp_path / "asked.txt").read_text().splitlines()
    assert "--require-hashes -r envs/demo.lock" in asked
    assert "--no-deps" in asked


def test_without_them_the_demo_runs_on_toys_and_says_so_in_one_line(make, tmp_path: Path) -> None:
    said = make("exit 1")
    assert "runs --configfile demo.yaml -- all" in said
    [line] = [line for line in said.splitlines() if line.startswith("make demo:")]
    assert "without SmolLM2 and emoji" in line
    assert not (tmp_path / ".demo/.ready").exists()
