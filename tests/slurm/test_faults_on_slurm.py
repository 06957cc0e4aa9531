"""Everything that goes wrong on a cluster, while four trainings run; nothing may be lost.

A training is stopped (SIGSTOP) as soon as it has saved a state, so that each fault meets it
in the middle, however fast the machine is. The seeds of one run take one fault each.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import NODES, Cluster, wait_until
from tests.slurm.workflow import (
    FAULTS,
    FIRST,
    RESULTS,
    RUN,
    finish,
    kill,
    said,
    start,
    trained,
)

BY_SEED = ("kill -9 of a training", "scancel", "time limit", "node down and resumed")
ON_ALL = ("slurmctld killed", "snakemake killed", "two snakemakes", "Ctrl-C")


class Disturbed:
    """A project in which the faults happen, one after another."""

    def __init__(self, project: Path, cluster: Cluster):
        self.project, self.cluster, self.head = project, cluster, None

    def start(self, *targets: str) -> None:
        """Start snakemake; the run before has ended or was killed."""
        self.head = start(self.project, self.cluster, *targets, configs=FAULTS)

    def folder(self, seed: int) -> Path:
        """Return where a training keeps its states."""
        return self.project / RESULTS / "checkpoints" / RUN / f"seed-{seed}"

    def freeze(self, after: dict[int, int]) -> dict[int, int]:
        """Stop each training, by seed, once it has saved ``after`` + 1 states.

        All are watched together: they run side by side, and none may end unseen.

        Returns:
            Their process ids.
        """
        frozen: dict[int, int] = {}

        def all_frozen() -> bool:
            assert self.head.poll() is None, said(self.project)[-3000:]
            for seed in after.keys() - frozen.keys():
                if any(int(name[:8]) >= after[seed] for name in self.states(seed)):
                    holder = (self.folder(seed) / "lease").read_text()
                    frozen[seed] = int(re.match(r"process (\d+) on", holder)[1])
                    os.kill(frozen[seed], signal.SIGSTOP)
            return len(frozen) == len(after)

        wait_until(all_frozen, f"states {after}", 400, every=0.02)
        return frozen

    def job(self, seed: int) -> str:
        """Return the number of the SLURM job that trains a seed."""
        holder = (self.folder(seed) / "lease").read_text()
        return re.search(r"SLURM job (\d+)", holder)[1]

    def states(self, seed: int) -> list[str]:
        """Return the names of the saved states."""
        return sorted(path.name for path in self.folder(seed).glob("0*.pt"))


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: Path, cluster: Cluster
) -> Iterator[dict]:
    """Let every fault happen; return what was seen of each."""
    project = tmp_path_factory.mktemp("disturbed") / "project"
    shutil.copytree(undisturbed, project)  # the data set is made; the trainings are not
    for part in ("runs", "tables", "checkpoints", "logs"):
        shutil.rmtree(project / RESULTS / part)
    world = Disturbed(project, cluster)
    seen = {"project": project}
    try:
        for fault in (_interrupt, _kill_head, _each_seed):
            fault(world, seen)
        yield seen
    finally:
        if world.head.poll() is None:
            kill(world.head)


def _interrupt(world: Disturbed, seen: dict) -> None:
    """Ctrl-C, once the first training has saved a state."""
    world.start(FIRST)
    world.freeze({0: 0})
    world.head.send_signal(signal.SIGINT)
    seen["Ctrl-C"] = finish(world.head, world.project, 120)
    wait_until(lambda: not world.cluster.jobs(), "the cancelled jobs")
    seen["left by Ctrl-C"] = list((world.project / RESULTS / "runs" / RUN).glob("seed-0/*"))
    seen["saved before Ctrl-C"] = world.states(0)


def _kill_head(world: Disturbed, seen: dict) -> None:
    """The controller is killed and started; a second snakemake comes; the first one is killed."""
    world.start(FIRST)
    world.freeze({0: 1})
    world.cluster.kill("slurmctld")
    world.cluster.start("slurmctld")
    seen["slurmctld killed"] = world.head.poll()
    second = start(world.project, world.cluster, FIRST, configs=FAULTS)
    seen["two snakemakes"] = finish(second, world.project, 120)
    seen["first of two"] = world.head.poll()
    kill(world.head)
    seen["orphan"] = world.job(0)
    seen["said before"] = len(said(world.project))


def _each_seed(world: Disturbed, seen: dict) -> None:
    """The same command again, to its end, with one more fault for each training."""
    cluster = world.cluster
    world.start("table6")
    processes = world.freeze({0: 2, 1: 0, 2: 0, 3: 0})
    seen["jobs"] = [world.job(seed) for seed in range(4)]
    node = cluster.run("squeue", "-h", "-j", world.job(3), "-o", "%N")
    assert node in NODES
    os.kill(processes[0], signal.SIGKILL)
    cluster.run("scancel", world.job(1))
    cluster.run("scontrol", "update", f"JobId={world.job(2)}", "EndTime=now")
    wait_until(lambda: world.job(2) not in cluster.jobs(), "the time limit", 120)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    cluster.wait_for_nodes()  # one that registers by itself in between cannot be resumed
    seen["requeued"] = _run_at_once(cluster, seen["jobs"][3])
    seen["status"] = finish(world.head, world.project)
    seen["said"] = said(world.project)[seen["said before"] :]


def _run_at_once(cluster: Cluster, job: str) -> str:
    """Spare a requeued job the two minutes that SLURM makes it wait; return its state before."""
    state = wait_until(
        lambda: (found := cluster.jobs().get(job)) in ("PENDING", "RUNNING") and found, "requeueing"
    )
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    return state


def log_of(project: Path, seed: int) -> str:
    return (project / RESULTS / "logs" / "train" / f"{RUN}--{seed}.log").read_text()


@pytest.fixture(scope="module")
def accounting(disturbed: dict, cluster: Cluster) -> Callable[[str], str]:
    """A function that returns the states that a job went through."""
    return lambda job: cluster.run(
        "sacct", "-X", "-n", "-D", "-j", job, "-S", "now-1hours", "-o", "state%30"
    )


def test_the_same_command_ends_well_after_all_faults(disturbed: dict) -> None:
    assert disturbed["status"] == 0, disturbed["said"][-3000:]


@pytest.mark.parametrize("seed", range(4), ids=BY_SEED)
def test_a_training_goes_on_from_its_state_to_the_same_results(
    disturbed: dict, undisturbed: Path, seed: int, survived: Callable
) -> None:
    assert "resumed after epoch" in log_of(disturbed["project"], seed)
    assert trained(disturbed["project"], seed) == trained(undisturbed, seed)
    survived(BY_SEED[seed])


def test_the_faults_were_what_they_are_called(disturbed: dict, accounting: Callable) -> None:
    states = [accounting(job) for job in disturbed["jobs"]]
    for seed, state in enumerate(("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")):
        assert state in states[seed], states
    assert disturbed["requeued"] in ("PENDING", "RUNNING")


@pytest.mark.parametrize("fault", ON_ALL)
def test_the_table_is_that_of_an_undisturbed_run(
    disturbed: dict, undisturbed: Path, fault: str, survived: Callable
) -> None:
    for suffix in ("csv", "md", "tex"):
        files = [one / RESULTS / "tables" for one in (disturbed["project"], undisturbed)]
        assert (files[0] / f"table6.{suffix}").read_bytes() == (
            files[1] / f"table6.{suffix}"
        ).read_bytes()
    survived(fault)


def test_ctrl_c_cancels_the_jobs_and_leaves_no_half_file(disturbed: dict) -> None:
    assert disturbed["Ctrl-C"] != 0
    assert disturbed["left by Ctrl-C"] == []
    assert disturbed["saved before Ctrl-C"]
    assert "Error in file" not in said(disturbed["project"])[: disturbed["said before"]]


def test_the_controller_may_go_and_come_back(disturbed: dict) -> None:
    assert disturbed["slurmctld killed"] is None  # snakemake went on


def test_a_second_snakemake_is_refused_and_the_first_goes_on(disturbed: dict) -> None:
    assert disturbed["two snakemakes"] != 0
    assert disturbed["first of two"] is None
    assert "Directory cannot be locked" in said(disturbed["project"])


def test_a_killed_snakemakes_lock_is_removed_and_its_jobs_are_cancelled(
    disturbed: dict, accounting: Callable
) -> None:
    assert "its lock is removed" in disturbed["said"]
    assert f"Cancelled SLURM job {disturbed['orphan']} of an earlier run" in disturbed["said"]
    assert "CANCELLED" in accounting(disturbed["orphan"])


def test_no_process_of_the_faults_is_left(disturbed: dict) -> None:
    found = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert not [line for line in found if str(disturbed["project"]) in line]
