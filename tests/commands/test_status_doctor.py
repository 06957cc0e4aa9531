"""`rectify status` and `rectify doctor`, with an invented queue and on an empty machine."""

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from rectify import slurm
from rectify.commands import doctor, status
from rectify.presence import lease
from rectify.records import write_json

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [ROOT / "config.yaml", ROOT / "demo.yaml", ROOT / "tests" / "slurm" / "tiny.yaml"]
RUN = "digits_vit-s_vanilla"
RESULTS = Path("results") / "tiny"


def arguments(command, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args([*words, "--config", *map(str, CONFIGS)])


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """A function that returns the line of a run in ``rectify status``, given a queue."""
    monkeypatch.chdir(tmp_path)

    def show(run=RUN, jobs=()):
        monkeypatch.setattr(shutil, "which", lambda name: name if jobs else None)
        monkeypatch.setattr(slurm, "jobs_of", lambda folder: list(jobs))
        status.run(arguments(status))
        lines = capsys.readouterr().out.splitlines()
        return next(line for line in lines if f" {run} seed 0" in line)

    return show


STATES = RESULTS / "checkpoints" / RUN / "seed-0"
LOG = RESULTS / "logs" / "train" / f"{RUN}--0.log"
EPOCH = "rectify.train epoch 2: loss 0.1\n"
ERROR = "training: the loss must be finite, got nan.\n"


def progress():
    path = STATES / "progress.json"
    write_json(path, {"epochs_done": 3, "epochs": 10, "seconds_per_epoch": 60.0})
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime + 7 * 60))


def log_of(text):
    LOG.parent.mkdir(parents=True, exist_ok=True)
    LOG.write_text(text)


def test_a_run_is_open_then_running_then_done(shown):
    assert shown().split()[0] == "open"
    with lease(STATES / "lease"):
        log_of("")
        assert shown().split()[0] == "running"
        end = progress()
        assert shown().split()[:2] == ["running", "3/10"]
        assert end in shown()
    write_json(RESULTS / "runs" / RUN / "seed-0" / "summary.json", {"epochs": 10})
    assert shown().split()[:2] == ["done", "10/10"]


def test_a_run_whose_process_is_gone_is_stopped_and_names_its_log(shown):
    with lease(STATES / "lease"):
        progress()
        log_of(EPOCH)
    assert shown().split()[:2] == ["stopped", "3/10"]
    assert shown().endswith(f"goes on from its state; {LOG}")


@pytest.mark.parametrize("before", ["", EPOCH])
@pytest.mark.parametrize("said", ["", ERROR])
def test_a_run_that_failed_names_its_log(shown, before, said):
    if before:
        progress()
    log_of(before * bool(said) + said)
    assert shown().split()[0] == "failed"
    assert shown().endswith(f"seed 0  {LOG}")


@pytest.mark.parametrize(("state", "word"), [("RUNNING", "running"), ("PENDING", "waiting")])
def test_the_queue_says_which_job_trains(shown, state, word):
    progress()
    line = shown(jobs=[slurm.Job("17", state, "1:00", "train", f"{RUN}_0")])
    assert line.split()[0] == word
    assert line.endswith("SLURM job 17")


def test_a_queue_that_does_not_answer_is_said(shown, monkeypatch, capsys):
    shown()
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def refuse(folder):
        raise ValueError("slurm: squeue must succeed, got nothing.")

    monkeypatch.setattr(slurm, "jobs_of", refuse)
    status.run(arguments(status))
    out = capsys.readouterr().out
    assert "The queue is unknown: slurm: squeue must succeed" in out


def test_jobs_of_other_folders_and_people_are_not_ours(monkeypatch, tmp_path):
    rows = (
        f"7|rectify_a-b|RUNNING|1:00|{tmp_path}|rule_train_wildcards_{RUN}_0\n"
        f"8|rectify_a-b|PENDING|0:00|/elsewhere|rule_train_wildcards_{RUN}_1\n"
        f"9|other|RUNNING|0:00|{tmp_path}|a|b\n"
        f"10|rectify_a-b|RUNNING|0:00|{tmp_path}|rule_prepare\n"
    )
    monkeypatch.setattr(slurm, "ask", lambda *command: rows)
    first, second = slurm.jobs_of(tmp_path)
    assert (first.number, first.what) == ("7", f"train {RUN}_0")
    assert (second.number, second.what) == ("10", "prepare")


@pytest.mark.parametrize(
    ("job", "name", "state", "is_requeued"),
    [
        ("7", "rectify_a", "RUNNING", True),
        ("7", "rectify_a", "COMPLETING", False),  # it is being cancelled
        ("7", "bash", "RUNNING", False),  # somebody's own job, with Snakemake in it
        ("8", "rectify_a", "RUNNING", False),
        (None, "rectify_a", "RUNNING", False),
    ],
)
def test_only_a_running_job_of_the_workflow_is_queued_again(
    monkeypatch, job, name, state, is_requeued
):
    row, asked, slept = f"7|{name}|{state}|1:00|{Path.cwd()}|rule_train\n", [], []

    def ask(*command):
        asked.append(command)
        return row if command[0] == "squeue" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    slurm.requeue()
    assert (("scontrol", "requeue", "7") in asked, bool(slept)) == (is_requeued, is_requeued)
    assert bool(asked) == bool(job)


def test_a_command_that_fails_or_is_missing_is_one_line():
    with pytest.raises(ValueError, match=r"^slurm: no-such-command must answer, got .*login node"):
        slurm.ask("no-such-command")
    with pytest.raises(ValueError, match=r"^slurm: sh must succeed, got why\. Try `sh -c"):
        slurm.ask("sh", "-c", "echo why >&2; false")


def test_leftovers_are_cancelled_and_waited_for(monkeypatch, tmp_path):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    rows = [f"7|rectify_a|RUNNING|1:00|{tmp_path}|rule_train_wildcards_x"] * 2 + [""]
    asked = []

    def ask(*command):
        asked.append(command)
        return rows.pop(0) if command[0] == "squeue" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert [job.number for job in slurm.begin(tmp_path, "results", is_alone=True)] == ["7"]
    assert ("scancel", "7") in asked
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert slurm.begin(tmp_path, "results", is_alone=False) == []


def findings(capsys, *words):
    code = doctor.run(arguments(doctor, *words))
    return code, capsys.readouterr().out.splitlines()


def test_the_demo_needs_nothing_but_space(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 2**20)
    code, lines = findings(capsys)
    assert code == 0, lines
    assert [line[:4] for line in lines] == ["ok  "] * 3
    assert lines[0].startswith("ok  versions: torch 2.")


def test_the_papers_missing_data_are_named_each(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "bar" / "train").mkdir(parents=True)
    (tmp_path / "data" / "cifar-100-python").mkdir()
    (tmp_path / "checkpoints" / "llama-7b").mkdir(parents=True)
    monkeypatch.setitem(globals(), "CONFIGS", CONFIGS[:1])
    code, lines = findings(capsys)
    assert code == 1
    assert "BAD data cifar100: nothing at data/cifar-100-python: docs/data.md says" in str(lines)
    assert "ok  data bar: data/bar" in lines
    for what, place in (
        ("checkpoint llama-7b", "llama-7b"),
        ("start of vit-b on ssv2", "videomae-base-ssv2.pth"),
        ("weights of vit-t", "vit-t"),
    ):
        assert f"BAD {what}: nothing at checkpoints/{place}: see docs/data.md" in lines


def test_a_machine_without_slurm_and_a_wrong_partition_are_found(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    profile = tmp_path / "profile.yaml"
    profile.write_text(yaml.safe_dump({"default-resources": {"slurm_partition": "gpux"}}))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    code, lines = findings(capsys, "--profile", str(profile))
    assert (code, lines[-1]) == (1, "BAD slurm: no squeue here: run this on a login node")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(slurm, "ask", lambda *command: "cpu\ngpu\ngpu\n")
    code, lines = findings(capsys, "--profile", str(profile))
    assert (code, lines[-1]) == (1, "BAD partition: no partition gpux; there are: cpu, gpu")


PROFILE = {
    "default-resources": {"slurm_partition": "gpu", "slurm_account": "us", "runtime": 240},
    "set-resources": {"train": {"gpu_model": "a100"}},
}
SAID = "shared\nlocked\ncuda 1\n"


@pytest.fixture
def cluster(tmp_path, monkeypatch, capsys):
    """A function that returns what the doctor says of a cluster, and the options of its job."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(doctor, "NEEDED_BYTES", 2**20)

    def look(said=SAID, limit="infinite", gpus=1, profile=PROFILE):
        answers = {"--format=%R": "gpu\ncpu\n", "--format=%l": f"{limit}\n"}
        asked = []

        def ask(*command, seconds=60):
            if "srun" not in command:
                return answers.get(command[-1], "2 nodes, gpu:2\n")
            asked.extend(command)
            if isinstance(said, ValueError):
                raise said
            return said() if callable(said) else said

        monkeypatch.setattr(slurm, "ask", ask)
        (tmp_path / "profile.yaml").write_text(yaml.safe_dump(profile))
        (tmp_path / "gpus.yaml").write_text(yaml.safe_dump({"device_gpus": gpus}))
        monkeypatch.setitem(globals(), "CONFIGS", [*CONFIGS[:3], tmp_path / "gpus.yaml"])
        code, lines = findings(capsys, "--profile", str(tmp_path / "profile.yaml"))
        assert code == any(line.startswith("BAD") for line in lines)
        return [line for line in lines if not line.startswith("ok  ")], lines, asked

    return look


def test_a_cluster_without_fault_has_no_bad_line(cluster):
    bad, lines, options = cluster()
    assert bad == []
    assert "ok  GPU: a job sees 1 of 1" in lines
    assert {"--partition=gpu", "--account=us", "--gpus=a100:1", "--immediate=600"} < set(options)


def test_fewer_gpus_than_asked_for_are_bad(cluster):
    assert cluster(gpus=4)[0] == ["BAD GPU: a job sees 1 of 4"]
    assert cluster("shared\nlocked\ncuda 4\n", gpus=4)[0] == []
    assert not any(line[4:].startswith("GPU") for line in cluster(gpus=0)[1])


@pytest.mark.parametrize(
    "said",
    [
        "srun: error: Unable to allocate resources: Requested nodes are busy",
        "srun: error: Unable to allocate resources: Immediate execution impossible, insufficient",
    ],
)
def test_a_long_queue_is_told_from_a_refusal(cluster, said):
    long = "BAD job: none started within 600 s: the queue is long, try again later"
    assert cluster(ValueError(f"slurm: env must succeed, got {said}."))[0] == [long]
    refusal = "slurm: env must succeed, got srun: error: Invalid account. Try `srun --immediate=9`."
    assert cluster(ValueError(refusal))[0] == [f"BAD job: {refusal}"]


@pytest.mark.parametrize(
    ("limit", "gpus", "runtime", "asked", "most"),
    [
        ("1-00:00:00", 1, None, 2880, 1440),
        ("1-00:00:00", 1, 1440, 1440, None),
        ("1-00:00:00", 1, "2d", 2880, 1440),
        ("2-00:00:00", 1, None, 2880, None),
        ("infinite", 1, None, 2880, None),
        ("30:30", 0, None, 60, 30),
        ("1:00:00", 0, None, 60, None),
    ],
)
def test_a_training_must_not_ask_for_more_than_the_partition_gives(
    cluster, limit, gpus, runtime, asked, most
):
    train = {"runtime": runtime} if runtime else {}
    bad, lines, _ = cluster(
        limit=limit, gpus=gpus, profile=PROFILE | {"set-resources": {"train": train}}
    )
    line = next(line for line in lines if "time limit" in line)
    assert f"a training asks for {asked} minutes, gpu gives at most" in line
    assert bad == ([line] if most else [])
    if most:
        assert line.endswith(f"{most}: write `runtime: {most}` under `train` in slurm/profile.yaml")


def test_the_minutes_are_those_of_the_rule():
    rule = (ROOT / "workflow" / "rules" / "train.smk").read_text()
    with_gpu, without = doctor.TRAIN_MINUTES[True], doctor.TRAIN_MINUTES[False]
    assert f'runtime={with_gpu:_} if config["device_gpus"] else {without},' in rule


@pytest.mark.parametrize("fault", [None, "locks", "shared files"])
def test_the_job_itself_finds_files_and_locks_that_do_not_reach_it(
    cluster, monkeypatch, tmp_path, fault
):
    if fault == "locks":
        monkeypatch.setattr(fcntl, "flock", lambda file, kind: None)
    place = tmp_path / "elsewhere" if fault == "shared files" else tmp_path
    place.mkdir(exist_ok=True)

    def job():
        (probe,) = tmp_path.glob(".doctor-*")
        words = ("bash", "-c", doctor.JOB, "echo", "cuda 1", probe.name)
        said = subprocess.run(words, cwd=place, capture_output=True, text=True, check=True).stdout
        return said.replace("-c cuda", "cuda")

    bad, lines, _ = cluster(job)
    assert [line.split(":")[0] for line in bad] == ([f"BAD {fault}"] if fault else [])
    if fault == "locks":
        assert "mount with -o flock" in bad[0]
    assert any(line.startswith("ok  locks") for line in lines) == (fault is None)
    assert list(place.glob(".doctor-*")) == []


def test_a_file_that_is_no_yaml_mapping_is_one_line(tmp_path):
    from rectify.config import load

    for content in ("[1]", "a: [", json.dumps("text")):
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"mine\.yaml: must (be a YAML file|hold keys)"):
            load([tmp_path / "mine.yaml"])
