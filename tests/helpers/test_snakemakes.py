"""The helper that runs Snakemake as forks: the same answers as fresh processes."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.helpers.snakemakes import run_snakemake
from tests.workflow.project import BIN, environment

SNAKEFILE = """
import mine


rule made:
    output:
        f"{mine.NAME}.txt",
    shell:
        "echo $COLOUR > {output}"
"""
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
OWN = re.compile(r"^(  (Date|Workflow ID|Command): |\[).*\n", re.MULTILINE)  # of each call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a workflow and a module of its own."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "mine.py").write_text('NAME = "first"\n')
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("words", [("-n",), ("-n", "absent.txt")])
def test_a_fork_says_what_a_fresh_process_says(words: tuple[str, ...], folder: Path) -> None:
    done = run_snakemake(words, folder, environment(folder), seconds=100)
    command = (f"{BIN}/snakemake", *words)
    fresh = subprocess.run(command, cwd=folder, env=environment(folder), **PIPES, check=False)
    assert done.returncode == fresh.returncode == len(words) - 1
    assert OWN.sub("", done.stdout) == OWN.sub("", fresh.stdout)
    assert f"Run directory: {folder}" in done.stdout


@pytest.mark.slow
def test_each_fork_reads_its_modules_and_environment_anew(folder: Path) -> None:
    for name in ("first", "second"):
        (folder / "mine.py").write_text(f'NAME = "{name}"\n')
        env = environment(folder) | {"COLOUR": f"{name} colour"}
        assert run_snakemake(("--cores", "1"), folder, env, seconds=100).returncode == 0
        assert (folder / f"{name}.txt").read_text() == f"{name} colour\n"
