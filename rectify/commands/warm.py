"""Run a command, usually snakemake, whose rectify jobs start at once.

    rectify warm snakemake --cores 2 --configfile demo.yaml all

Reads and writes nothing itself. Within such a command another one shares its server. On macOS,
where jobs cannot be forked, the command runs as it is.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import takewhile
from pathlib import Path

SERVE = "from rectify.__main__ import run; from rectify.cluster.warm import serve; serve(run)"
SERVER = (sys.executable, "-c", SERVE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("program", nargs=argparse.REMAINDER, help="the command and its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the command to its end; return its exit status."""
    from rectify.cluster import warm

    if not args.program or shutil.which(args.program[0]) is None:
        raise ValueError(
            f"warm: a command must follow, got {' '.join(args.program) or 'none'}. "
            "Write: rectify warm snakemake ..."
        )
    _check_configurations(args.program)
    there = os.environ.get("RECTIFY_WARM")
    starts = warm.CAN_FORK and not there
    with warm.server(SERVER) if starts else nullcontext(there) as address:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides how Ctrl-C ends it
        restore = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        environment = {**os.environ, **({"RECTIFY_WARM": address} if address else {})}
        return subprocess.run(args.program, env=environment, check=False, **restore).returncode


def _check_configurations(words: Sequence[str]) -> None:
    """Tell in one line what snakemake tells in a traceback: a file after --configfile is none."""
    from rectify.results.files import read_yaml

    options = {"--configfile", "--configfiles"}
    for place, word in enumerate(words):
        if Path(words[0]).name != "snakemake" or word not in options:
            continue
        for name in takewhile(lambda text: not text.startswith("-"), words[place + 1 :]):
            if not Path(name).is_file():
                raise ValueError(
                    f"--configfile: {name} must be a file, got none. Correct the path; a target "
                    f"comes behind two hyphens: --configfile mine.yaml -- {name}."
                )
            read_yaml(Path(name))
