"""The helper that runs command lines as forks: the same answers as fresh processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rectify.cluster.presence import lease
from tests.helpers.processes import run_rectify
from tests.helpers.records import resolve

ROOT = Path(__file__).resolve().parents[2]
RESOLVE = resolve("glyphs_vit-s_vanilla")


def fresh(words: tuple[str, ...], cwd: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"]
    command[-1] += "from rectify.__main__ import main; sys.exit(main())"
    done = subprocess.run([*command, *words], cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [RESOLVE, RESOLVE[:3], ("--help",)])
def test_a_fork_says_what_a_fresh_process_says(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_rectify(words, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == fresh(words, tmp_path)
    assert (tmp_path / "config.json").exists() == (words == RESOLVE)


def test_the_environment_reaches_the_fork(tmp_path: Path) -> None:
    words = resolve("x")
    done = run_rectify(words, tmp_path, env={"RECTIFY_TRACEBACK": "1"})
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert run_rectify(words, tmp_path).stderr.count("\n") == 1


def test_a_signal_that_nobody_handles_ends_the_fork(tmp_path: Path) -> None:
    words = ["train", "--config", "config.json", "--data", "data", "--seed", 0, "--threads", 1]
    words += ["--states", tmp_path, "--output", "run"]
    with lease(tmp_path / "lease"):
        done = run_rectify(words, tmp_path, signal_after=("waiting for", signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    assert f"waiting for process {os.getpid()} on" in done.stderr
