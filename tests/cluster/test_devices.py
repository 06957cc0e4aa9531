"""GPUs that jobs of one machine share, by a made-up list of them."""

import itertools
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

import pytest

from rectify.arguments import GPUS
from rectify.cluster import devices
from rectify.cluster.devices import VISIBLE, listed, share, taken, visible
from tests.helpers.programs import write_programs

LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-aaaa)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
  MIG 3g.20gb     Device  0: (UUID: MIG-b1)
  MIG 3g.20gb     Device  1: (UUID: MIG-b2)
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without GPUs, with a folder of its own for the locks."""
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    monkeypatch.setattr(devices, "WAIT_SECONDS", 0.01)
    for name in (GPUS, VISIBLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_a_gpu_that_is_cut_into_parts_is_its_parts() -> None:
    assert listed(LISTING) == ["GPU-aaaa", "MIG-b1", "MIG-b2"]
    assert listed("No devices were found\n") == []


@pytest.mark.parametrize(
    ("named", "expected"), [("2,0", ["2", "0"]), ("", []), ("-1", []), ("1,-1,0", ["1"])]
)
def test_the_variable_says_what_is_visible(
    monkeypatch: pytest.MonkeyPatch, named: str, expected: list[str]
) -> None:
    monkeypatch.setenv(VISIBLE, named)
    assert visible() == expected


def test_nvidia_smi_is_asked_and_a_driver_that_is_broken_has_none(tmp_path: Path) -> None:
    assert visible() == []
    write_programs(tmp_path / "bin", **{"nvidia-smi": f"cat <<'END'\n{LISTING}END"})
    assert visible() == ["GPU-aaaa", "MIG-b1", "MIG-b2"]
    write_programs(tmp_path / "bin", **{"nvidia-smi": f"cat <<'END'\n{LISTING}END\nexit 9"})
    assert visible() == []


def test_jobs_that_compute_on_the_cpu_see_no_gpu() -> None:
    share(["0", "1"], 0)
    assert (os.environ[VISIBLE], GPUS in os.environ) == ("", False)
    os.environ.pop(VISIBLE)


def test_where_nothing_is_shared_nothing_changes() -> None:
    with taken(1):
        assert VISIBLE not in os.environ


@pytest.mark.parametrize(("shared", "count", "got"), [("", 1, 0), ("0", 2, 1)])
def test_fewer_gpus_than_a_job_asks_for_are_one_line(
    monkeypatch: pytest.MonkeyPatch, shared: str, count: int, got: int
) -> None:
    monkeypatch.setenv(GPUS, shared)
    with pytest.raises(ValueError, match=f"as a job computes on, {count}, got {got}. Set dev"):
        taken(count).__enter__()


def test_a_job_hands_nothing_on_to_what_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GPUS, "0,1")
    monkeypatch.setenv(VISIBLE, "0,1")
    with taken(1):
        assert (os.environ[VISIBLE], GPUS in os.environ) == ("0", False)
    monkeypatch.setenv(GPUS, "0,1")
    with taken(0):
        assert os.environ[VISIBLE] == ""


def job(folder: Path, number: int, count: int, seconds: float) -> None:
    """Take some of three GPUs, and note when from, until when, and which."""
    os.environ[GPUS] = "0,1,2"
    with taken(count):
        begin = time.monotonic()
        time.sleep(seconds)
        end = time.monotonic()  # before the locks are dropped
        text = f"{begin} {end} {os.environ[VISIBLE]}"
        (folder / f"{number}.txt").write_text(text)


def test_no_two_jobs_have_a_gpu_at_the_same_time(tmp_path: Path) -> None:
    counts = (1, 2, 1, 2, 1, 2)
    fork = multiprocessing.get_context("fork")
    jobs = [
        fork.Process(target=job, args=(tmp_path, number, count, 0.05))
        for number, count in enumerate(counts)
    ]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join(60)
    held = []
    for number, count in enumerate(counts):
        begin, end, names = (tmp_path / f"{number}.txt").read_text().split()
        assert len(set(names.split(","))) == count
        held += [(name, float(begin), float(end)) for name in names.split(",")]
    for device in "012":
        spans = sorted((begin, end) for name, begin, end in held if name == device)
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_a_killed_job_frees_its_gpu(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=job, args=(tmp_path, 0, 3, 60))
    killed.start()
    folder = tmp_path / f"rectify-gpus-{os.getuid()}"
    while len(list(folder.glob("*"))) < 3:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    job(tmp_path, 1, 3, 0)
    assert (tmp_path / "1.txt").read_text().endswith("0,1,2")
