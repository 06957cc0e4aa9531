"""`snakemake` command lines in processes of their own, without the seconds of imports.

Each is a fork of one process that has imported Snakemake and what it needs, but nothing of
rectify: that comes from the copy of the project in which the command runs. This file is also the
program of that process.
"""

import atexit
import functools
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    *(
        "snakemake.cli",
        "snakemake_executor_plugin_slurm",
        "snakemake_executor_plugin_slurm_jobstep",
    ),
    *("pydantic", "yaml", "jaxtyping"),
)


def run_snakemake(
    words: Sequence[str], cwd: Path, env: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run ``snakemake`` with ``words`` to its end; return its status and what it said.

    Args:
        words: Of the command line, after ``snakemake``.
        cwd: The folder in which it runs.
        env: All its environment variables.
        seconds: After which it hangs, and is ended.

    Returns:
        With standard error in the standard output.
    """
    forks = _forks()
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        asked = {"words": list(words), "cwd": f"{cwd}", "env": dict(env), "output": output.name}
        watchdog = threading.Timer(seconds, _end, [forks])
        watchdog.start()
        forks.stdin.write(f"{json.dumps(asked)}\n")
        forks.stdin.flush()
        status = forks.stdout.readline()
        watchdog.cancel()
        said = output.read()
    assert status, f"snakemake hung or its process was ended: {said[-3000:]}"
    return subprocess.CompletedProcess(["snakemake", *words], int(status), said)


@functools.cache
def _forks() -> subprocess.Popen:
    """Start the process that imports Snakemake, once; it ends with this process."""
    program = (sys.executable, str(Path(__file__).resolve()))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(program, cwd="/", start_new_session=True, **pipes)
    for pipe in (process.stdin, process.stdout):
        atexit.register(pipe.close)
    atexit.register(_end, process)  # before them: the last one is called first
    return process


def _end(forks: subprocess.Popen) -> None:
    """End the process and its fork."""
    os.killpg(forks.pid, signal.SIGKILL)
    forks.wait()


def _serve() -> None:
    """Fork a child for each line of standard input, and answer with its exit status."""
    for module in IMPORTED:
        importlib.import_module(module)
    assert "rectify" not in sys.modules
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


def _become(words: list[str], cwd: str, env: dict[str, str], output: str) -> None:
    """Become the command: what runs in the fork."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for number, stream in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
        os.dup2(stream, number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:1] = [str(Path(sys.executable).parent), *env["PYTHONPATH"].split(os.pathsep)]
    become_snakemake(words, cwd)


def become_snakemake(words: Sequence[str], cwd: str) -> NoReturn:
    """Run ``snakemake`` with ``words`` in a process that has imported it; end like it."""
    sys.argv = ["snakemake", *words]
    sys.modules["snakemake.workflow"].Workflow._rundir = cwd  # taken when it was imported
    sys.exit(sys.modules["snakemake.cli"].main())


if __name__ == "__main__":
    _serve()
