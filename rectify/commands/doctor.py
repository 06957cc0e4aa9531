"""Check a machine or a cluster before the first run: one line for each finding.

Reads
    --config   configuration files, one over the other, as given to snakemake
    --profile  profile files, likewise: partition, account, type of GPU
Writes
    nothing that stays; the exit status is 1 if something must be fixed
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from rectify.cluster.doctor import Finding, cluster, machine, present, request
from rectify.experiment import grid
from rectify.experiment.plan import Plan
from rectify.experiment.required import data_folders, model_places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, nargs="+", required=True)
    parser.add_argument("--profile", type=Path, nargs="*", default=[])


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 if one is bad."""
    is_bad = False
    for finding in _findings(Plan(grid.load(args.config)), args.profile):
        sys.stdout.write(f"{finding.line()}\n")
        sys.stdout.flush()
        is_bad |= not finding.is_well
    return int(is_bad)


def _findings(plan: Plan, profiles: list[Path]) -> Iterator[Finding]:
    yield from machine(Path(plan.results))
    for name, places in data_folders(plan).items():
        yield present(f"data {name}", places, "docs/data.md says what to put there")
    for what, place in model_places(plan).items():
        yield present(what, [place], "see docs/data.md")
    if profiles:
        yield from cluster(request(profiles), plan.config.device_gpus)
