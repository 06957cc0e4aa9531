"""Processes of a SLURM job's nodes: what srun is asked for, and whose end is reported."""

import argparse
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from rectify.commands import train
from rectify.training.processes import launch_on_nodes, words_of

SRUN = """#!{python}
import json, os, sys
names = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
open({asked!r}, "w").write(json.dumps([sys.argv[1:], [os.environ[name] for name in names]]))
sys.stderr.write({said!r})
sys.exit({status})
"""
FAILED = """\
a word of its own
srun: error: n2: tasks 2-3: Exited with exit code 3
srun: launch/slurm: _step_signal: Terminating StepId=7.0
srun: error: n1: task 0: Killed
"""
STOPPED = FAILED.replace("exit code 3", f"exit code {os.EX_TEMPFAIL}")
KILLED = "srun: error: n1: task 0: Segmentation fault\n"


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that puts a srun in place, which writes what it is asked for."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(said: str = "", status: int = 0) -> Path:
        asked, program = tmp_path / "asked.json", tmp_path / "srun"
        text = SRUN.format(python=sys.executable, asked=f"{asked}", said=said, status=status)
        program.write_text(text)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return asked

    return make


def arguments(**changes: int) -> argparse.Namespace:
    given = {"nodes": 2, "processes": 4, "gpus": 4, "threads": 9, "seed": 5, "block": None}
    return argparse.Namespace(**given | changes)


def test_each_node_has_its_share_of_processes_gpus_and_threads(srun) -> None:
    asked = srun()
    assert launch_on_nodes("train", arguments()) == 0
    words, (address, port, *sizes) = json.loads(asked.read_text())
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2", "--cpus-per-task=4"} < set(words)
    command = words[words.index("rectify") :]
    options = dict(zip(command[2::2], command[3::2], strict=True))
    assert command[1] == "train"
    assert options.pop("--nodes") == "1"
    assert options == {"--processes": "4", "--gpus": "2", "--threads": "9", "--seed": "5"}
    assert (bool(address), int(port) > 0, sizes) == (True, True, ["4", "2"])


def test_without_gpus_each_node_has_one_process(srun) -> None:
    asked = srun()
    assert launch_on_nodes("train", arguments(processes=0, gpus=0)) == 0
    words, (*_, total, here) = json.loads(asked.read_text())
    assert {"--ntasks=2", "--ntasks-per-node=1"} < set(words)
    assert (total, here) == ("2", "1")


@pytest.mark.parametrize(
    ("said", "status", "found", "last"),
    [
        (FAILED, 137, 3, "process 2-3 on node n2 ended first, with status 3"),
        (KILLED, 139, 139, "process 0 on node n1 ended first, with status 139"),
        (STOPPED, 137, os.EX_TEMPFAIL, None),
        ("srun: error: Unable to create step", 1, 1, None),
    ],
)
def test_the_status_is_that_of_the_first_to_fail(
    srun, caplog, capfd, said: str, status: int, found: int, last: str | None
) -> None:
    srun(said, status)
    assert launch_on_nodes("train", arguments()) == found
    assert [record.getMessage() for record in caplog.records] == ([last] if last else [])
    assert capfd.readouterr().err.startswith(said)


def test_a_mistake_is_one_line(srun, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="as many on each of 2 nodes, got 3"):
        launch_on_nodes("train", arguments(processes=3))
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(ValueError, match="on 2 nodes must run in a SLURM job, got none"):
        launch_on_nodes("train", arguments())


@pytest.mark.parametrize("further", [[], ["--block", "b", "--trackers", "wandb", "mlflow"]])
def test_each_process_gets_the_options_that_were_given(further: list[str]) -> None:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = ["--config", "c", "--data", "d", "--states", "s", "--output", "o", "--seed", "1"]
    args = parser.parse_args([*given, "--threads", "2", *further])
    assert parser.parse_args(words_of(argparse.Namespace(command="train", **vars(args)))) == args
