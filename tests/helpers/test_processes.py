"""The helper that runs command lines as forks: the same answers as fresh processes."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rectify.cluster.presence import lease
from tests.helpers.processes import run_rectify
from tests.helpers.records import resolve
from tests.slurm.cluster import wait_until

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


@pytest.mark.slow
def test_a_warm_process_runs_a_command_and_ends_with_the_process_that_asked(
    tmp_path: Path,
) -> None:
    asked = "from tests.helpers.processes import warm_address; print(warm_address()); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", asked], cwd=ROOT, **pipes) as asking:
        address = asking.stdout.readline().strip()
        words = [sys.executable, "-m", "rectify", *RESOLVE]
        warm = os.environ | {"RECTIFY_WARM": address}
        subprocess.run(words, cwd=tmp_path, env=warm, check=True)
        assert (tmp_path / "config.json").exists()
        asking.kill()
    with socket.socket(socket.AF_UNIX) as client:
        wait_until(lambda: client.connect_ex(address) == errno.ECONNREFUSED, "its end")
