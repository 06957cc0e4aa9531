"""What each Python process of a copied project begins with; see `tests/slurm/workflow.py`.

Python imports a module of this name when it starts, from any folder of PYTHONPATH.

A test can stop a training right after it has saved a state. A training opens the folder of its
states once a new one has its name, to flush it to disk. If the folder then has a file ``hold``,
with the number of that state or of an earlier one, the process removes the file and stops itself
(SIGSTOP).

Where there is a warm process, that of `tests/slurm/served.py`, it runs the Snakemake of each job.
"""

import os
import signal
import sys
from pathlib import Path


def hold(event: str, arguments: tuple) -> None:
    """Look at each file or folder that the process opens."""
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return
    states = Path(arguments[0])
    asked = states / "hold"
    if not asked.is_file():
        return
    last = max((int(state.name[:8]) for state in states.glob("0*.pt")), default=-1)
    if last >= int(asked.read_text()):
        asked.unlink()
        os.kill(os.getpid(), signal.SIGSTOP)


sys.addaudithook(hold)

if sys.orig_argv[1:3] == ["-m", "snakemake"] and os.environ.get("RECTIFY_WARM"):
    from rectify.cluster.warm import request

    os._exit(request(os.environ["RECTIFY_WARM"], ["snakemake", *sys.orig_argv[3:]]))
