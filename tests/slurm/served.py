"""A warm process that also runs the Snakemake of jobs, as `tests/slurm/hooks` has them ask for it.

`python tests/slurm/served.py COMMAND...` is `rectify warm COMMAND...` with this server; without a
command it is the server.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from rectify.__main__ import main
from rectify.__main__ import run as run_rectify
from rectify.cluster.warm import serve
from rectify.commands import warm
from tests.helpers.snakemakes import IMPORTED, become_snakemake

PLANNING = tuple(f"rectify.experiment.{name}" for name in ("jobs", "plan", "repositories", "there"))


def run(words: Sequence[str]) -> int:
    """Run a command line of Snakemake, which comes after its name, or one of rectify."""
    if words[0] == "snakemake":
        become_snakemake(words[1:], os.getcwd())
    return run_rectify(words)


if __name__ == "__main__":
    if sys.argv[1:]:
        warm.SERVER = (sys.executable, __file__)
        sys.exit(main(["warm", *sys.argv[1:]]))
    for module in (*IMPORTED, *PLANNING):
        importlib.import_module(module)
    serve(run)
