"""Jobs of this workflow on a cluster, with an invented SLURM."""

import os
import time
from pathlib import Path

import pytest

from rectify.cluster import slurm


def test_jobs_of_other_folders_and_people_are_not_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = (
        f"7|rectify_a-b|RUNNING|1:00|{tmp_path}|rule_train_wildcards_a_b_vanilla_0\n"
        "8|rectify_a-b|PENDING|0:00|/elsewhere|rule_train_wildcards_a_b_vanilla_1\n"
        f"9|other|RUNNING|0:00|{tmp_path}|a|b\n"
        f"10|rectify_a-b|RUNNING|0:00|{tmp_path}|rule_prepare\n"
    )
    monkeypatch.setattr(slurm, "ask", lambda *command: rows)
    first, second = slurm.jobs_of(tmp_path)
    assert (first.number, first.what) == ("7", "train a_b_vanilla_0")
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
    monkeypatch: pytest.MonkeyPatch, job: str | None, name: str, state: str, is_requeued: bool
) -> None:
    row, asked, slept = f"7|{name}|{state}|1:00|{Path.cwd()}|rule_train\n", [], []

    def ask(*command: str) -> str:
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


def test_a_command_that_fails_or_is_missing_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^slurm: no-such-command must answer, got .*login node"):
        slurm.ask("no-such-command")
    with pytest.raises(ValueError, match=r"^slurm: sh must succeed, got why\. Try `sh -c"):
        slurm.ask("sh", "-c", "echo why >&2; false")


def test_leftovers_are_cancelled_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    rows = [f"7|rectify_a|RUNNING|1:00|{tmp_path}|rule_train_wildcards_x"] * 2 + [""]
    asked = []

    def ask(*command: str) -> str:
        asked.append(command)
        return rows.pop(0) if command[0] == "squeue" else ""

    monkeypatch.setattr(slurm, "ask", ask)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert [job.number for job in slurm.begin(tmp_path, "results", is_alone=True)] == ["7"]
    assert ("scancel", "7") in asked
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert slurm.begin(tmp_path, "results", is_alone=False) == []


def test_a_leftover_that_does_not_end_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = f"7|rectify_a|COMPLETING|1:00|{tmp_path}|rule_train_wildcards_x"
    monkeypatch.setattr(slurm, "ask", lambda *command: row)
    monkeypatch.setattr(slurm, "CANCEL_SECONDS", -1)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match=r"must end before a new one starts, got 7 after -1 s\."):
        slurm.cancel_leftovers(tmp_path)


@pytest.mark.parametrize("path", ["it's", 'a "b"', "back\\slash", "line\nbreak"])
def test_a_path_that_jobs_would_not_quote_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"must have no quotes, .* Rename the folder\.$") as caught:
        slurm.begin(Path("/home/me"), path, is_alone=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="must have no quotes"):
        slurm.begin(Path("/home") / path, "results", is_alone=True)
