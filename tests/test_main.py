import os
import subprocess
import sys
from pathlib import Path

import pytest

from rectify.__main__ import COMMANDS, main, run

pytestmark = pytest.mark.usefixtures("restored_runtime")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def no_warm_server(monkeypatch):
    monkeypatch.delenv("RECTIFY_WARM", raising=False)
    monkeypatch.delenv("RECTIFY_TRACEBACK", raising=False)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    shown = capsys.readouterr().out
    assert [name for name in COMMANDS if name not in shown] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_reads_and_writes(name, capsys):
    if not (ROOT / "rectify" / "commands" / f"{name.replace('-', '_')}.py").is_file():
        pytest.fail(f"rectify has no command {name}")
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert f"usage: rectify {name}" in shown
    assert name == "warm" or "Writes" in shown


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "warm"])
def test_every_command_but_fetch_is_offline(name, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert os.environ.get("HF_HUB_OFFLINE") == (None if name == "fetch" else "1")


@pytest.mark.parametrize("words", [[], ["tabel"], ["resolve"], ["resolve", "--settings", "{"]])
def test_a_wrong_command_line_ends_with_status_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: rectify" in capsys.readouterr().err


def test_a_users_mistake_is_one_line_and_status_2(tmp_path, capsys):
    words = ["resolve", "--settings", '{"run": "x"}', "--output", str(tmp_path / "config.json")]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("config: a run must be named")
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RECTIFY_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a run must be named"):
        run(["resolve", "--settings", '{"run": "x"}', "--output", str(tmp_path / "config.json")])


def test_a_command_that_ends_well_has_status_0(tmp_path):
    words = ["resolve", "--settings", '{"run": "glyphs_vit-s_vanilla"}']
    assert main([*words, "--output", str(tmp_path / "config.json")]) == 0
    assert (tmp_path / "config.json").is_file()


def test_help_and_resolve_start_without_torch():
    words = "'resolve', '--settings', '{\"run\": \"x\"}', '--output', 'never.json'"
    code = f"import sys; from rectify.__main__ import run; run([{words}])"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
