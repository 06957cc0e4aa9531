"""The command line: help, mistakes, exit status, and what is imported."""

import argparse
import importlib
import logging
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rectify import __main__
from rectify.__main__ import COLD, COMMANDS, main, run
from rectify.arguments import FINAL, GPUS, JOB
from rectify.cluster import warm
from tests.helpers.records import resolve

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what ``run`` changes for the whole process; no warm process is asked."""
    for name in ("RECTIFY_WARM", "RECTIFY_TRACEBACK", JOB):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_help_names_every_command(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_reads_and_writes(
    name: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: rectify {name}" in shown
    assert name == "warm" or "Writes" in shown


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "warm"])
def test_every_command_but_fetch_is_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert os.environ.get("HF_HUB_OFFLINE") == (None if name == "fetch" else "1")


@pytest.mark.parametrize(
    "words",
    [
        *([], ["tabel"], ["resolve"], ["resolve", "--settings", "{"], ["--seed", "table"]),
        *(["resolve", "--settings", "[1]", "--output", "x"], ["evaluate", "--threads", "0"]),
        *(["train", "--seed", "-1"], ["similarity", "--output", "scores.txt"]),
        *(["report", "--figures", "figure5.pdf"], ["similarity", "--quantile", "nan"]),
        *(["language-features", "--procedure", "qwen3"], ["vision-features", "--pretrained", "x"]),
    ],
)
def test_a_wrong_command_line_ends_with_status_2(
    words: list[str], capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    told = capsys.readouterr().err
    assert told.startswith("rectify")
    assert told.endswith("--help`.\n")
    assert told.count("\n") == 1


def test_only_the_first_word_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    imported = []
    monkeypatch.setattr(__main__.importlib, "import_module", imported.append)
    with pytest.raises(SystemExit, match="2"):
        main(["--output", "table"])
    assert imported == []
    assert capsys.readouterr().err.startswith("rectify: ")


@pytest.mark.parametrize("name", ["table", "--help", *sorted(COLD)])
def test_a_warm_process_is_asked_for_all_but_what_starts_it_or_needs_the_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def request(address: str, arguments: Sequence[str]) -> int:
        asked.append((address, arguments))
        return 7

    monkeypatch.setenv("RECTIFY_WARM", "an address")
    monkeypatch.setattr(warm, "request", request)
    monkeypatch.setattr(__main__, "run", lambda arguments: 8)
    assert main([name, "fetch", "warm"]) == (8 if name in COLD else 7)
    assert asked == ([] if name in COLD else [("an address", [name, "fetch", "warm"])])


def test_a_users_mistake_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(resolve("x", tmp_path / "config.json")) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("config: a run must be named")
    assert (shown.err.count("\n"), shown.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_a_jobs_log_says_that_no_attempt_can_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(JOB, "1")
    assert main(resolve("x", tmp_path / "config.json")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == FINAL
    assert lines[1].startswith("config: a run must be named")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "mine").touch()
    fetch = ["fetch", "--hub", "a/b", "--kind", "model", "--folder", f"{folder}"]
    assert main(fetch) == 2  # the network may be back at the next attempt
    assert FINAL not in capsys.readouterr().err


@pytest.mark.parametrize("place", ["folder", "file/below", "x" * 300])
def test_a_path_that_cannot_be_written_is_one_line_that_names_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    assert main(resolve("digits_vit-64_vanilla", tmp_path / place)) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path}" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("shared", [None, "0,1"])
def test_a_command_sees_the_gpus_that_it_computes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: str | None
) -> None:
    seen = []
    asked = argparse.Namespace(processes=2, time=False)
    command = types.ModuleType("command")
    command.run = lambda parsed: seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    monkeypatch.setattr(tempfile, "tempdir", f"{tmp_path}")
    monkeypatch.setattr(__main__, "_parse", lambda words: (command, asked))
    monkeypatch.delenv(GPUS, raising=False)
    for name, count in (("train", 2), ("evaluate", 1), ("cost", 0), ("similarity", None)):
        real = importlib.import_module(f"rectify.commands.{name}")
        assert hasattr(real, "gpus") == (count is not None)
        vars(command).pop("gpus", None)
        if count is not None:
            command.gpus = real.gpus
            assert real.gpus(asked) == count
        if shared is not None:
            monkeypatch.setenv(GPUS, shared)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        assert run([name]) == 0
    assert seen == (["7"] * 4 if shared is None else ["0,1", "0", "", ""])


def test_a_traceback_is_shown_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTIFY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a run must be named"):
        run(resolve("x", tmp_path / "config.json"))


def test_a_command_that_ends_well_has_status_0(tmp_path: Path) -> None:
    assert main(resolve("glyphs_vit-s_vanilla", tmp_path / "config.json")) == 0
    assert (tmp_path / "config.json").is_file()


@pytest.mark.parametrize("words", [["--help"], resolve("x", "never")])
def test_help_and_resolve_start_without_torch_and_pandas(words: list[str]) -> None:
    code = (
        "import contextlib, sys\n"
        "from rectify.__main__ import run\n"
        f"with contextlib.suppress(SystemExit): run({words!r})\n"
        "sys.exit(', '.join({'torch', 'pandas', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
