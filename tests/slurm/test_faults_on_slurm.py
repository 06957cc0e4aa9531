"""Everything that goes wrong on a cluster, while six trainings run; nothing may be lost.

A training stops itself (SIGSTOP) as soon as it has saved a state, so that each fault meets it
in the middle, however fast the machine is. The seeds of one run share the faults.
"""

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rectify.cluster.presence import STATES
from tests.slurm.cluster import NODES, Cluster, wait_until
from tests.slurm.workflow import (
    FAULTS,
    FIRST,
    RESULTS,
    RUN,
    finish,
    held,
    hold,
    kill,
    lost,
    run_here,
    said,
    start,
)

ENDED = {0: "kill -9 of a training", 1: "scancel", 2: "time limit"}  # by a retry of Snakemake's
REQUEUED = {
    3: "node down and resumed",
    4: "warned before its time limit",
    5: "preempted, then preempted with grace",
}
BY_SEED = ENDED | REQUEUED
ON_ALL = (
    *("Ctrl-C", "slurmctld killed", "two snakemakes", "snakemake killed", "slurmdbd killed"),
    "a job that finds a mistake",
)


class Disturbed:
    """A project in which the faults happen, one after another."""

    def __init__(self, project: Path, cluster: Cluster):
        self.project, self.cluster, self.head = project, cluster, None

    def start(self, *targets: str) -> None:
        """Start snakemake; the run before has ended or was killed."""
        self.head = start(self.project, self.cluster, *targets, configs=FAULTS)

    def start_trainings(self, *seeds: int) -> None:
        """Start snakemake for the trainings of these seeds."""
        self.start(*(FIRST.replace("seed-0", f"seed-{seed}") for seed in seeds))

    def folder(self, seed: int) -> Path:
        """Return where a training keeps its states."""
        return self.project / RESULTS / STATES / RUN / f"seed-{seed}"

    def freeze(self, *seeds: int) -> dict[int, int]:
        """Have trainings that have not started yet stop once each has saved one more state.

        Returns:
            Their process ids, by seed.
        """
        for seed in seeds:
            hold(self.folder(seed))

        def frozen() -> dict[int, int | None]:
            assert self.head.poll() is None, said(self.project)[-3000:]
            return {seed: held(self.folder(seed)) for seed in seeds}

        wait_until(lambda: all(frozen().values()), f"states of {seeds}")
        return frozen()

    def job(self, seed: int) -> str:
        """Return the number of the SLURM job that trains a seed, or did so last."""
        holder = (self.folder(seed) / "lease").read_text()
        return re.search(r"SLURM job (\d+)", holder)[1]

    def node(self, seed: int) -> str:
        """Return the node on which a seed is trained."""
        name = self.cluster.run("squeue", "-h", "-j", self.job(seed), "-o", "%N")
        assert name in NODES
        return name

    def requeued(self, seed: int) -> str:
        """Wait until the job of a seed waits in the queue again; return its number."""
        job = self.job(seed)
        wait_until(lambda: self.cluster.jobs().get(job) == "PENDING", f"requeued job {job}")
        return job

    def preempt(self, seed: int, grace_seconds: int) -> None:
        """Give the whole node of a training to a more urgent job for a second."""
        limit = f"GraceTime={grace_seconds}"
        self.cluster.run("scontrol", "update", "PartitionName=test", limit)
        urgent = ("--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        self.cluster.run("sbatch", *urgent, f"--nodelist={self.node(seed)}")
        self.requeued(seed)

    def states(self, seed: int) -> list[int]:
        """Return the numbers of the saved states."""
        return sorted(int(path.name[:8]) for path in self.folder(seed).glob("0*.pt"))


@pytest.fixture(scope="module")
def disturbed(
    tmp_path_factory: pytest.TempPathFactory, undisturbed: Path, cluster: Cluster, warmed: str
) -> Iterator[dict]:
    """Let every fault happen, then make the table here; return what was seen of each fault."""
    project = tmp_path_factory.mktemp("disturbed") / "project"
    shutil.copytree(undisturbed, project)  # the data set is made; the trainings are not
    for made in ("runs", "tables", STATES, "logs"):
        shutil.rmtree(project / RESULTS / made)
    world = Disturbed(project, cluster)
    seen = {"project": project}
    try:
        for fault in (_interrupt, _kill_head, _requeue, _end):
            fault(world, seen)
        seen["last jobs"] = [world.job(seed) for seed in BY_SEED]
        seen["said here"] = run_here(project, warmed)
        yield seen
    finally:
        if world.head is not None and world.head.poll() is None:
            kill(world.head)
        cluster.repair()


def _interrupt(world: Disturbed, seen: dict) -> None:
    """Ctrl-C, once the first training has saved a state."""
    world.start(FIRST)
    world.freeze(0)
    world.head.send_signal(signal.SIGINT)
    seen["Ctrl-C"] = finish(world.head, world.project)
    wait_until(lambda: not world.cluster.jobs(), "the cancelled jobs")
    seen["left by Ctrl-C"] = list((world.project / RESULTS / "runs" / RUN).glob("seed-0/*"))
    seen["saved before Ctrl-C"] = world.states(0)


def _kill_head(world: Disturbed, seen: dict) -> None:
    """The controller is killed and started; a second snakemake comes; the first one is killed."""
    world.start(FIRST)
    world.freeze(0)
    world.cluster.kill("slurmctld")
    world.cluster.start("slurmctld")
    seen["slurmctld killed"] = world.head.poll()
    second = start(world.project, world.cluster, FIRST, configs=FAULTS)
    seen["two snakemakes"] = finish(second, world.project)
    seen["first of two"] = world.head.poll()
    kill(world.head)
    seen["orphan"] = world.job(0)
    seen["said before"] = len(said(world.project))


def _requeue(world: Disturbed, seen: dict) -> None:
    """Two trainings are queued again, one of them twice, without accounting; a third one fails."""
    obstacle = world.folder(3) / f"00000000-{'0' * 64}.pt"
    obstacle.parent.mkdir(parents=True)
    obstacle.touch()
    world.cluster.kill("slurmdbd")
    world.start_trainings(3, 4, 5)
    world.freeze(4, 5)
    seen["requeued"] = {seed: world.job(seed) for seed in (4, 5)}
    # SLURM warns up to three minutes before the end, and wakes the stopped process
    world.cluster.run("scontrol", "update", f"JobId={world.job(4)}", "EndTime=now+100")
    again = world.requeued(4)
    world.cluster.run("scontrol", "update", f"JobId={again}", "TimeLimit=60")  # no second warning
    failed = f"Logfile {RESULTS}/logs/train/{RUN}--3.log"
    wait_until(lambda: said(world.project).count(failed) == 1, "the failure")
    world.preempt(5, grace_seconds=0)
    world.freeze(5)
    wait_until(lambda: again not in world.cluster.jobs(), "the warned training")
    world.preempt(5, grace_seconds=60)
    world.cluster.start("slurmdbd")
    seen["status with a failure"] = finish(world.head, world.project)
    seen["failure"] = said(world.project).rpartition("1 failed:")[2]
    obstacle.unlink()


def _end(world: Disturbed, seen: dict) -> None:
    """All trainings, to their end, with one more fault for each that is left."""
    cluster = world.cluster
    world.start_trainings(*BY_SEED)
    processes = world.freeze(0, 1, 2, 3)
    seen["ended"] = {seed: world.job(seed) for seed in ENDED}
    seen["requeued"][3] = world.job(3)
    node = world.node(3)
    os.kill(processes[0], signal.SIGKILL)
    cluster.run("scancel", seen["ended"][1])
    # The controller refuses a time that is past when it reads it: "now" fails as a second ends.
    # A warning in these two seconds would wake it, to save a state and be queued again.
    hold(world.folder(2))
    cluster.run("scontrol", "update", f"JobId={seen['ended'][2]}", "EndTime=now+2")
    wait_until(lambda: seen["ended"][2] not in cluster.jobs(), "the time limit")
    (world.folder(2) / "hold").unlink(missing_ok=True)
    cluster.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
    cluster.wait_for_nodes()  # one that registers by itself in between cannot be resumed
    seen["status"] = finish(world.head, world.project)
    seen["said"] = said(world.project)[seen["said before"] :]


def log_of(project: Path, seed: int) -> str:
    return (project / RESULTS / "logs" / "train" / f"{RUN}--{seed}.log").read_text()


@pytest.fixture(scope="module")
def accounting(disturbed: dict, cluster: Cluster) -> Callable[[str], str]:
    """A function that returns the states that a job went through."""
    return lambda job: cluster.run(
        "sacct", "-X", "-n", "-D", "-j", job, "-S", "now-1hours", "-o", "state%30"
    )


def test_snakemake_ends_well_after_all_faults(disturbed: dict) -> None:
    assert disturbed["status"] == 0, disturbed["said"][-3000:]
    assert "rule evaluate:" in disturbed["said here"]
    assert "rule train:" not in disturbed["said here"]  # every training was there, and complete


@pytest.mark.parametrize("seed", BY_SEED, ids=BY_SEED.values())
def test_a_training_resumes_from_its_state_to_the_same_results(
    disturbed: dict, undisturbed: Path, seed: int, survived: Callable
) -> None:
    assert "resumed after epoch" in log_of(disturbed["project"], seed)
    survived(BY_SEED[seed], lost(disturbed["project"], undisturbed, seed))


@pytest.mark.parametrize("fault", ON_ALL)
def test_the_results_are_those_of_an_undisturbed_run(
    disturbed: dict, undisturbed: Path, fault: str, survived: Callable
) -> None:
    survived(fault, lost(disturbed["project"], undisturbed, *BY_SEED))


@pytest.mark.parametrize("seed", REQUEUED, ids=REQUEUED.values())
def test_a_job_that_is_queued_again_costs_no_retry(disturbed: dict, seed: int) -> None:
    assert disturbed["last jobs"][seed] == disturbed["requeued"][seed]


def test_the_faults_were_what_they_are_called(disturbed: dict, accounting: Callable) -> None:
    states = [accounting(disturbed["ended"][seed]) for seed in ENDED]
    states += [accounting(disturbed["requeued"][seed]) for seed in REQUEUED]
    names = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "REQUEUED", "PREEMPTED")
    assert all(name in state for name, state in zip(names, states, strict=True)), states


def test_a_mistake_is_tried_once_and_holds_up_no_other_job(disturbed: dict) -> None:
    assert disturbed["status with a failure"] != 0
    failed = f"Logfile {RESULTS}/logs/train/{RUN}--3.log"
    assert said(disturbed["project"])[: disturbed["said before"]].count(failed) == 0
    assert disturbed["said"].count(failed) <= 2  # that one, and the node that is lost later
    failure = disturbed["failure"].splitlines()
    assert failure[1].startswith(f"  train run={RUN} seed=3: "), failure
    assert "must hold an intact state, got 1 damaged." in failure[1]
    assert f"results/faults/logs/train/{RUN}--3.log" in failure[2]


def test_ctrl_c_cancels_the_jobs_and_leaves_no_half_file(disturbed: dict) -> None:
    assert disturbed["Ctrl-C"] != 0
    assert disturbed["left by Ctrl-C"] == []
    assert disturbed["saved before Ctrl-C"]
    assert "Error in file" not in said(disturbed["project"])[: disturbed["said before"]]


def test_the_controller_may_go_and_come_back(disturbed: dict) -> None:
    assert disturbed["slurmctld killed"] is None  # snakemake continued


def test_a_second_snakemake_is_refused_and_the_first_continues(disturbed: dict) -> None:
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
    places = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            places.append((process / "cwd").readlink())
    assert places
    assert not [place for place in places if place.is_relative_to(disturbed["project"])]
