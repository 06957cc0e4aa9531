"""Run a command, usually snakemake, whose rectify jobs start at once.

    rectify warm snakemake --cores 2 --configfile demo.yaml all

Reads and writes nothing itself. One such command at a time works in a folder: a second is
refused, and a lock that a killed snakemake left behind is released.
"""

import argparse
import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import IO

LOCK = Path(".snakemake") / "warm.lock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lock", type=Path, default=LOCK, help="file that marks the folder as busy"
    )
    parser.add_argument("program", nargs=argparse.REMAINDER, help="the command and its arguments")


def run(args: argparse.Namespace) -> int:
    from rectify.warm import server

    if not args.program or shutil.which(args.program[0]) is None:
        raise ValueError(
            f"warm: a command must follow, got {' '.join(args.program) or 'none'}. "
            "Write: rectify warm snakemake ..."
        )
    with _locked(args.lock), server() as address:
        shutil.rmtree(LOCK.parent / "locks", ignore_errors=True)  # left by a killed snakemake
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides how Ctrl-C ends it
        restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        return subprocess.run(
            args.program, env={**os.environ, "RECTIFY_WARM": address}, check=False, **restore
        ).returncode


def _locked(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise ValueError(
            f"warm: one command at a time works in {Path.cwd()}, got a second. "
            "Wait for the first, or stop it."
        ) from None
    return file
