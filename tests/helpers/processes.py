"""`rectify` command lines and scripts in processes of their own, without the seconds of imports.

Each is a fork of one process that has imported everything, so it computes what a fresh process
would, and it has a process id that signals can be sent to. Another fork is a warm process, of
which the `rectify` jobs of a workflow are forks.
"""

import atexit
import functools
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, context, forkserver
from pathlib import Path

import pytest

from rectify.__main__ import run
from rectify.cluster.warm import LISTENER, PRELOADED, serve

HANGS_SECONDS = 600
KEPT_OUT = ("RECTIFY_WARM", "RECTIFY_TRACEBACK")


def run_rectify(
    arguments: Sequence[object],
    cwd: Path,
    env: Mapping[str, str] | None = None,
    signal_after: tuple[str, int] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``rectify`` with ``arguments`` to its end; return its status and what it said.

    Args:
        arguments: The words of the command line after ``rectify``.
        cwd: The folder in which it runs.
        env: Environment variables on top of those of the tests.
        signal_after: A text and a signal, which is sent once a line of standard error has the text.

    Returns:
        The exit status is minus the signal's number if a signal ended the process.
    """
    words = [str(word) for word in arguments]
    kept = {name: value for name, value in os.environ.items() if name not in KEPT_OUT}
    reader, writer = _forks().Pipe(duplex=False)
    with reader, tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        told = (words, f"{cwd}", kept | dict(env or {}), output.name, writer)
        process = _forks().Process(target=_run, args=told)
        process.start()
        writer.close()
        watchdog = threading.Timer(HANGS_SECONDS, process.kill)
        watchdog.start()
        errors = _read(reader, process.pid, signal_after)
        process.join()
        watchdog.cancel()
        status = process.exitcode
        process.close()
        return subprocess.CompletedProcess(words, status, output.read(), errors)


def run_scripts(script: str, arguments: Sequence[Sequence[str]]) -> list[str]:
    """Run a script at the same time with each list of arguments; return what each run said."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / f"{number}" for number in range(len(arguments))]
        processes = [
            _forks().Process(target=_run_script, args=(script, list(words), f"{output}"))
            for words, output in zip(arguments, outputs, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(HANGS_SECONDS)
            process.kill()  # one that hangs
        return [output.read_text() for output in outputs]


def spawn_forks(function: Callable, args: Sequence[object], nprocs: int) -> None:
    """Be ``torch.multiprocessing.spawn``, whose processes take seconds to import torch."""
    from torch import multiprocessing as processes

    _forks()
    processes.start_processes(function, args, nprocs, start_method="forkserver")


@functools.cache
def warm_address() -> str:
    """Return the address of a warm process, for RECTIFY_WARM; it ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="rectify-"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"{folder / 'warm'}")
    listener.listen()
    reader, writer = _forks().Pipe(duplex=False)
    _forks().Process(target=_serve, args=(listener, reader), daemon=True).start()
    listener.close()
    reader.close()
    atexit.register(shutil.rmtree, folder)
    atexit.register(writer.close)  # which it waits for, and which is referred to here until then
    return f"{folder / 'warm'}"


@functools.cache
def _forks() -> context.ForkServerContext:
    """Start the process that imports everything, once."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([*PRELOADED, __name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # before a library reads it, as every command does
        forkserver.ensure_running()
    return forks


def _read(reader: connection.Connection, process: int, signal_after: tuple[str, int] | None) -> str:
    """Return everything that comes; send a signal after the line that has its text."""
    said = ""
    with open(reader.fileno(), encoding="utf-8", closefd=False) as lines:
        for line in lines:
            said += line
            if signal_after and signal_after[0] in line:
                os.kill(process, signal_after[1])
                signal_after = None
    return said


def _run(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    output: str,
    errors: connection.Connection,
) -> None:
    """Become the command: what runs in the fork."""
    os.dup2(os.open(output, os.O_WRONLY), 1)
    os.dup2(errors.fileno(), 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(run(words))


def _serve(listener: socket.socket, life: connection.Connection) -> None:
    """Become the warm process, which lives as long as the other end of ``life``."""
    os.dup2(life.fileno(), 0)
    life.close()
    sys.stdin = os.fdopen(0)
    os.environ[LISTENER] = f"{listener.detach()}"
    serve(run)


def _run_script(script: str, arguments: list[str], output: str) -> None:
    """Become the script."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["-c", *arguments]
    exec(compile(script, "script", "exec"), {"__name__": "__main__"})
