"""The warm process: the same answers as a cold one, and no process left behind."""

import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rectify.cluster import warm
from rectify.cluster.warm import server
from tests.helpers.records import resolve

pytestmark = pytest.mark.slow

HANGS_SECONDS = 600
# A server that imports nothing beforehand: it is there at once.
SERVE = (
    "from rectify.__main__ import run; from rectify.cluster import warm\n"
    "warm.PRELOADED = (); warm.serve(run)"
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Return the address of a server that runs during the tests of this file."""
    with server((sys.executable, "-c", SERVE)) as socket:
        yield socket


def rectify(
    address: str, folder: Path, *arguments: str, **options: object
) -> subprocess.CompletedProcess:
    """Run `python -m rectify` below the server."""
    return subprocess.run(
        [sys.executable, "-m", "rectify", *arguments],
        cwd=folder,
        env={**os.environ, "RECTIFY_WARM": address, **options},
        capture_output=True,
        text=True,
        timeout=HANGS_SECONDS,
        check=False,
    )


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether something becomes true before it must be taken for hanging."""
    end = time.monotonic() + HANGS_SECONDS
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def runs(process: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(process: int) -> set[int]:
    """Return the running children of a process, their children, and so on."""
    running = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == process and fields[0] != "Z":
                running |= {int(entry.name)} | descendants(int(entry.name))
    return running


def lasting_job(folder: Path) -> list[str]:
    """Return the words of a training that lasts until it is killed: it reads an empty pipe."""
    os.mkfifo(folder / "settings.json")
    return [
        *(sys.executable, "-m", "rectify", "train", "--config", "settings.json", "--data", "."),
        *("--seed", "0", "--threads", "1", "--states", "states", "--output", "."),
    ]


def test_a_job_runs_in_the_callers_folder_and_ends_with_0(address: str, tmp_path: Path) -> None:
    said = rectify(address, tmp_path, *resolve("glyphs_vit-s_vanilla"))
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "config.json").is_file()


def test_a_command_within_a_warm_one_shares_its_server(address: str, tmp_path: Path) -> None:
    said = rectify(address, tmp_path, "warm", "sh", "-c", "echo $RECTIFY_WARM")
    assert (said.returncode, said.stdout) == (0, f"{address}\n")


def test_a_mistake_is_one_line_on_the_callers_standard_error(address: str, tmp_path: Path) -> None:
    said = rectify(address, tmp_path, *resolve("a"))
    assert said.returncode == 2
    assert said.stderr.startswith("config: a run must be named")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "config.json").exists()


def test_arguments_are_checked_as_in_a_cold_process(address: str, tmp_path: Path) -> None:
    said = rectify(address, tmp_path, "resolve", "--sedes", "1")
    assert said.returncode == 2
    assert "--settings" in said.stderr


def test_the_callers_environment_counts_and_an_unexpected_error_keeps_its_traceback(
    address: str, tmp_path: Path
) -> None:
    said = rectify(address, tmp_path, *resolve("a"), RECTIFY_TRACEBACK="1")
    assert said.returncode == 1
    assert "Traceback" in said.stderr
    assert "ValueError" in said.stderr


def test_a_killed_caller_takes_its_job_along(address: str, tmp_path: Path) -> None:
    before = descendants(os.getpid())
    caller = subprocess.Popen(
        lasting_job(tmp_path), cwd=tmp_path, env={**os.environ, "RECTIFY_WARM": address}
    )
    assert eventually(lambda: len(descendants(os.getpid()) - before) == 2)  # caller and job
    assert caller.poll() is None
    caller.kill()
    caller.wait()
    assert eventually(lambda: descendants(os.getpid()) == before)


def test_without_a_server_the_caller_says_so(tmp_path: Path) -> None:
    said = rectify(f"{tmp_path}/nobody", tmp_path, *resolve("a_b_vanilla"))
    assert said.returncode == 2
    assert said.stderr.startswith("warm: a server must listen at RECTIFY_WARM")
    assert said.stderr.count("\n") == 1


# `rectify warm` with that server
BARE = (
    "import sys; from rectify.__main__ import main; from rectify.commands import warm\n"
    f"warm.SERVER = (sys.executable, '-c', {SERVE!r})\n"
    "sys.exit(main(['warm', *sys.argv[1:]]))"
)


WITHOUT_FORKS = f"from rectify.cluster import warm\nwarm.CAN_FORK = False\n{BARE}"


def bare(*command: str, script: str = BARE, **options: object) -> subprocess.Popen:
    """Start `rectify warm <command>`."""
    return subprocess.Popen([sys.executable, "-c", script, *command], **options)


def test_the_commands_exit_status_is_that_of_warm(tmp_path: Path) -> None:
    with bare(sys.executable, "-c", "raise SystemExit(7)", cwd=tmp_path) as process:
        pass
    assert process.returncode == 7


def test_where_a_process_may_not_fork_the_command_runs_without_a_server(tmp_path: Path) -> None:
    show = "import os; print(os.environ.get('RECTIFY_WARM')); raise SystemExit(7)"
    said = []
    for script in (BARE, WITHOUT_FORKS):
        words = {"script": script, "cwd": tmp_path, "stdout": subprocess.PIPE, "text": True}
        with bare(sys.executable, "-c", show, **words) as process:
            said.append(process.stdout.read().strip())
        assert process.returncode == 7
    assert said[0].endswith("/warm")
    assert said[1] == "None"


@pytest.mark.parametrize(("system", "can"), [("darwin", False), ("linux", True)])
def test_a_process_may_fork_on_any_system_but_macos(
    system: str, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert runpy.run_path(warm.__file__)["CAN_FORK"] is can


def test_killing_warm_ends_its_server(tmp_path: Path) -> None:
    process = bare(sys.executable, "-c", "input()", cwd=tmp_path, stdin=subprocess.PIPE)
    assert eventually(lambda: len(descendants(process.pid)) == 2)  # server and command
    children = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert eventually(lambda: not any(map(runs, children)))


def test_killing_warm_ends_its_jobs(tmp_path: Path) -> None:
    process = bare(*lasting_job(tmp_path), cwd=tmp_path)
    assert eventually(lambda: len(descendants(process.pid)) == 3)  # server, caller and job
    children = descendants(process.pid)
    process.kill()
    process.wait()
    assert eventually(lambda: not any(map(runs, children)))
