"""Check a machine or a cluster before the first run: one line for each finding.

Reads
    targets    tables, figures, experiments or pages that are meant; all of them unless given
    --config   configuration files, one over the other, as for snakemake; default: config.yaml, or
               config/config.yaml
    --profile  profile files, likewise: partition, account, type of GPU
Writes
    nothing that stays; the exit status is 1 if something must be fixed
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from rectify.arguments import add_configs
from rectify.cluster.doctor import Finding, cluster, machine, present, request
from rectify.experiment import grid, there
from rectify.experiment.plan import Plan
from rectify.experiment.required import data_folders, model_places


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("targets", nargs="*", metavar="target", help="as given to snakemake")
    add_configs(parser)
    parser.add_argument("--profile", type=Path, nargs="*", default=[])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print the findings; return 1 if one is bad."""
    is_bad = False
    plan = Plan(grid.asked(grid.load(args.config), args.targets))
    for finding in _findings(plan, args.profile):
        line = json.dumps(finding._asdict()) if args.json else finding.line()
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        is_bad |= not finding.is_well
    return int(is_bad)


def _findings(plan: Plan, profiles: list[Path]) -> Iterator[Finding]:
    asked = request(profiles) if profiles else None
    yield from machine(Path(plan.results))
    for name, places in data_folders(plan).items():
        yield present(f"data {name}", places, "docs/data.md says what to put there")
    for what, place in model_places(plan).items():
        yield present(what, [place], "see docs/data.md")
    for mistake in there.mistakes(plan):
        yield Finding(False, "plan", mistake)
    if asked is not None:
        yield from cluster(asked, plan.config.device_gpus, plan.config.device_nodes)
