"""`rectify status` and `rectify doctor`, with an invented queue and on an empty machine."""

import argparse
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import yaml

from rectify import slurm
from rectify.commands import doctor, status
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


def progress(age_seconds=0.0):
    path = RESULTS / "checkpoints" / RUN / "seed-0" / "progress.json"
    write_json(path, {"epochs_done": 3, "epochs": 10, "seconds_per_epoch": 60.0})
    written = time.time() - age_seconds
    os.utime(path, (written, written))
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(written + 7 * 60))


def test_a_run_is_open_then_running_then_done(shown):
    assert shown().split()[0] == "open"
    end = progress()
    assert shown().split()[:2] == ["running", "3/10"]
    assert end in shown()
    write_json(RESULTS / "runs" / RUN / "seed-0" / "summary.json", {"epochs": 10})
    assert shown().split()[:2] == ["done", "10/10"]


def test_a_run_whose_process_is_gone_is_stopped_and_names_its_log(shown):
    progress(age_seconds=3600)
    line = shown()
    assert line.split()[:2] == ["stopped", "3/10"]
    assert f"goes on from its state; {RESULTS}/logs/train/{RUN}--0.log" in line


def test_a_run_that_failed_at_once_names_its_log(shown):
    log = RESULTS / "logs" / "train" / f"{RUN}--0.log"
    log.parent.mkdir(parents=True)
    log.touch()
    assert shown().split()[0] == "failed"
    assert shown().endswith(str(log))


@pytest.mark.parametrize(("state", "word"), [("RUNNING", "running"), ("PENDING", "waiting")])
def test_the_queue_says_which_job_trains(shown, state, word):
    progress(age_seconds=3600)
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
    (tmp_path / "data" / "bar").mkdir(parents=True)
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


def test_a_file_that_is_no_yaml_mapping_is_one_line(tmp_path):
    from rectify.config import load

    for content in ("[1]", "a: [", json.dumps("text")):
        (tmp_path / "mine.yaml").write_text(content)
        with pytest.raises(ValueError, match=r"mine\.yaml: must (be a YAML file|hold keys)"):
            load([tmp_path / "mine.yaml"])
