"""What goes wrong on one machine: disks, old files, a killed Snakemake whose training continues."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rectify.cluster.presence import STATES
from tests.slurm.cluster import wait_until
from tests.slurm.workflow import FAULTS, FIRST, RESULTS, RUN, held, hold, lost
from tests.workflow.project import call, environment

COMMAND = ("snakemake", "--cores", "2", "--configfile", *FAULTS, "--")
TABLES = RESULTS / "tables"


@pytest.fixture
def project(
    tmp_path: Path, undisturbed: Path, warmed: str, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Return a copy of the finished project, without its table; its jobs are forks."""
    monkeypatch.setenv("RECTIFY_WARM", warmed)
    shutil.copytree(undisturbed, tmp_path / "project")
    shutil.rmtree(tmp_path / "project" / TABLES)
    return tmp_path / "project"


@pytest.fixture
def mounted() -> Iterator[Callable]:
    """A function that mounts something at a folder, until the end of the test."""
    if os.geteuid() != 0:
        assert not os.environ.get("CI")
        pytest.skip("only root may mount a file system")
    folders = []

    def mount(folder: Path, *options: str) -> Path:
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", *options, folder], check=True)
        folders.append(folder)
        return folder

    yield mount
    for folder in reversed(folders):
        subprocess.run(["umount", folder], check=True)


def lost_at_the_end(project: Path, undisturbed: Path) -> list[str]:
    """Run the command again, and return the results that are not those of an undisturbed run."""
    done = call(project, *COMMAND, "table6")
    assert done.returncode == 0, done.stdout[-3000:]
    return lost(project, undisturbed, 0)


def failed(project: Path) -> str:
    """Run the command, which must fail, and return what it says at the end."""
    done = call(project, *COMMAND, "table6")
    assert done.returncode != 0
    before, _, said = done.stdout.rpartition("1 failed:\n")
    assert before, done.stdout[-3000:]
    return said


def fill(folder: Path) -> Path:
    """Fill a file system to the last byte."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    assert shutil.disk_usage(folder).free == 0
    return filler


def test_a_full_disk_during_a_table(
    project: Path, undisturbed: Path, mounted: Callable, survived: Callable
) -> None:
    filler = fill(mounted(project / TABLES, "-t", "tmpfs", "-o", "size=64k", "tmpfs"))
    said = failed(project)
    assert "No space left on device. Make room" in said
    assert "results/faults/logs/table/table6.log" in said
    assert not (project / TABLES / "table6.csv").exists()
    filler.unlink()
    survived("full disk during a table", lost_at_the_end(project, undisturbed))


def test_a_full_disk_during_a_checkpoint(
    project: Path, undisturbed: Path, mounted: Callable, survived: Callable
) -> None:
    shutil.rmtree(project / RESULTS / "runs" / RUN / "seed-0")
    states = project / RESULTS / STATES / RUN / "seed-0"
    mounted(states, "-t", "tmpfs", "-o", "size=9m", "tmpfs")  # two states, and no third
    said = failed(project)
    assert "No space left on device. Make room" in said
    assert len(list(states.glob("0*.pt"))) == 2
    subprocess.run(["mount", "-o", "remount,size=100m", states], check=True)
    missing = lost_at_the_end(project, undisturbed)
    log = (project / RESULTS / "logs" / "train" / f"{RUN}--0.log").read_text()
    assert "resumed after epoch 2 of 6" in log
    survived("full disk during a checkpoint", missing)


def test_a_read_only_results_folder(
    project: Path, undisturbed: Path, mounted: Callable, survived: Callable
) -> None:
    results = mounted(project / "results", "--bind", project / "results")
    subprocess.run(["mount", "-o", "remount,ro,bind", results], check=True)
    done = call(project, *COMMAND, "table6")
    assert done.returncode != 0
    assert "Read-only file system" in done.stdout
    subprocess.run(["mount", "-o", "remount,rw,bind", results], check=True)
    survived("read-only results folder", lost_at_the_end(project, undisturbed))


def test_a_table_of_an_older_version_is_named_and_made_again(
    project: Path, undisturbed: Path, survived: Callable
) -> None:
    history = project / FIRST
    history.write_text(re.sub("^epoch,metric", "epoch,name", history.read_text()))
    said = failed(project)
    assert "history.csv: columns of a history table must be epoch, metric, value" in said
    assert "Make the file again with this version." in said
    history.unlink()
    survived("a CSV from an older version", lost_at_the_end(project, undisturbed))


def test_a_job_that_fails_after_its_last_step(
    project: Path, undisturbed: Path, survived: Callable
) -> None:
    shutil.rmtree(project / RESULTS / "runs" / RUN / "seed-0")
    times = project / RESULTS / "benchmarks" / "train" / f"{RUN}--0.tsv"
    times.unlink()
    (times / "obstacle").mkdir(parents=True)  # Snakemake cannot write how long the job took
    failed(project)
    assert not (project / FIRST).exists()
    shutil.rmtree(times)
    missing = lost_at_the_end(project, undisturbed)
    log = (project / RESULTS / "logs" / "train" / f"{RUN}--0.log").read_text()
    assert "resumed after epoch 6 of 6" in log
    assert not list((project / RESULTS / STATES).rglob("*.pt"))
    survived("a job that fails after its last step", missing)


def test_a_checkpoint_cut_in_half(project: Path, undisturbed: Path, survived: Callable) -> None:
    states, process, head = _stopped_training(project, saved=2)
    os.kill(process, signal.SIGKILL)
    assert head.wait(timeout=60) != 0
    last = sorted(states.glob("0*.pt"))[-1]
    os.truncate(last, last.stat().st_size // 2)
    missing = lost_at_the_end(project, undisturbed)
    log = (project / RESULTS / "logs" / "train" / f"{RUN}--0.log").read_text()
    assert f"{last.name} is damaged" in log
    assert "resumed after epoch" in log
    survived("a checkpoint cut in half", missing)


def test_a_killed_snakemakes_training_is_not_started_twice(
    project: Path, undisturbed: Path, survived: Callable
) -> None:
    _, process, head = _stopped_training(project, saved=1)
    head.kill()  # its training stays
    head.wait()
    again = subprocess.Popen((*COMMAND, "table6"), cwd=project, env=environment(project))
    log = project / RESULTS / "logs" / "train" / f"{RUN}--0.log"
    waiting = f"waiting for process {process} on "
    wait_until(lambda: log.exists() and waiting in log.read_text(), "the second training")
    os.kill(process, signal.SIGCONT)
    assert again.wait(timeout=300) == 0
    assert "resumed after epoch 6 of 6" in log.read_text()
    survived("snakemake killed, its training continues", lost_at_the_end(project, undisturbed))


def _stopped_training(project: Path, saved: int) -> tuple[Path, int, subprocess.Popen]:
    """Train seed 0 until so many states are saved; return their folder, its number and parent."""
    shutil.rmtree(project / RESULTS / "runs" / RUN / "seed-0")
    states = project / RESULTS / STATES / RUN / "seed-0"
    hold(states, saved)
    head = subprocess.Popen((*COMMAND, FIRST), cwd=project, env=environment(project))
    return states, wait_until(lambda: held(states), "a state of the training"), head
