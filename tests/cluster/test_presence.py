"""Locks that end with their process, whatever ends it."""

import errno
import fcntl
import re
import subprocess
import sys
import time

import pytest

from rectify.cluster import presence
from rectify.cluster.presence import Presence, is_held, lease, unlock

HOLD = {
    "presence": "present = Presence(Path(sys.argv[1]))\nprint('here', flush=True)\ntime.sleep(60)",
    "lease": "with lease(Path(sys.argv[1])):\n    print('here', flush=True)\n    time.sleep(60)",
    "lease with workers": (
        "with lease(Path(sys.argv[1])):\n"
        "    if os.fork() == 0: sys.exit()\n"
        "    os.wait()\n"
        "    print('here', flush=True)\n"
        "    time.sleep(60)"
    ),
}
HOLD["claim"] = (
    "results, folder = Path(sys.argv[1]), Path(sys.argv[1]).with_name('b')\n"
    "folder.mkdir()\n"
    "os.chdir(folder)\n"
    "claim(results)\n"
    "print('here', flush=True)\n"
    "time.sleep(60)"
)
START = "import os, sys, time\nfrom pathlib import Path\nfrom rectify.cluster.presence import *\n"


@pytest.fixture
def other(tmp_path):
    """A function that starts a process which holds something, and returns it."""
    started = []

    def start(kind, path):
        command = [sys.executable, "-c", START + HOLD[kind], str(path)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline() == "here\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def is_alone(present):
    with present.alone() as answer:
        return answer


def test_nobody_is_alone_until_the_other_is_killed(tmp_path, other):
    present = Presence(tmp_path)
    assert is_alone(present)
    process = other("presence", tmp_path)
    assert not is_alone(present)
    process.kill()
    process.wait()
    assert is_alone(present)


def test_the_locks_of_a_killed_snakemake_are_removed_those_of_a_living_one_stay(tmp_path, other):
    (tmp_path / "locks").mkdir()
    lock = tmp_path / "locks" / "0.output.lock"
    lock.touch()
    process = other("presence", tmp_path)
    assert not unlock(Presence(tmp_path), tmp_path)
    assert lock.exists()
    process.kill()
    process.wait()
    assert unlock(Presence(tmp_path), tmp_path)
    assert not lock.exists()
    assert not unlock(Presence(tmp_path), tmp_path)


def test_a_lease_is_free_again_at_the_end_of_its_process(tmp_path, other, monkeypatch, caplog):
    monkeypatch.setattr(presence, "WAIT_SECONDS", 0.05)
    process = other("lease", tmp_path / "lease")
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            process.kill()
            process.wait()

    monkeypatch.setattr(time, "sleep", nap)
    with caplog.at_level("INFO"), lease(tmp_path / "lease"):
        assert len(naps) == 2
    assert re.search(rf"waiting for process {process.pid} on \S+, which trains", caplog.text)
    with lease(tmp_path / "lease"):
        assert len(naps) == 2


def test_a_lease_is_held_until_its_process_is_killed(tmp_path, other):
    path = tmp_path / "lease"
    assert not is_held(path)
    assert not path.exists()
    process = other("lease", path)
    holder = path.read_text()
    assert is_held(path)
    assert is_held(path)
    assert path.read_text() == holder
    process.kill()
    process.wait()
    assert not is_held(path)


def test_asking_for_a_lease_does_not_keep_it_from_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    with lease(tmp_path / "lease"):
        pass
    assert not is_held(tmp_path / "lease")
    with lease(tmp_path / "lease"):
        assert is_held(tmp_path / "lease")


def test_a_job_of_a_cluster_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with lease(tmp_path / "lease"):
        assert (tmp_path / "lease").read_text().endswith(", SLURM job 17\n")


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, kind):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not is_alone(Presence(tmp_path))
    (tmp_path / "lease").touch()
    assert not is_held(tmp_path / "lease")
    with pytest.raises(ValueError, match="must have locks"), lease(tmp_path / "lease"):
        pass


def test_a_lease_outlives_the_workers_of_its_process_and_ends_with_it(tmp_path, other):
    process = other("lease with workers", tmp_path / "lease")
    assert is_held(tmp_path / "lease")
    process.kill()
    process.wait()
    assert not is_held(tmp_path / "lease")


def test_results_are_made_from_one_folder_at_a_time(tmp_path, other, monkeypatch):
    results, claim = tmp_path / "results", presence.claim.__wrapped__  # as if of several processes
    process = other("claim", results)
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    where = re.escape(f"{tmp_path / 'b'}")
    with pytest.raises(ValueError, match=rf"a snakemake in {where}, process {process.pid} on .*"):
        claim(results)
    process.kill()
    process.wait()
    claim(results)
    claim(results)  # Snakemake keeps those of one folder apart
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be made from one folder at a time"):
        claim(results)
