"""Say what targets take before anything is submitted: jobs, GPU-hours, hours on some GPUs, bytes.

Jobs are those that `snakemake -n` plans here, so what is there already is not counted. Hours are
those of all jobs that take a GPU, from steps that were timed, from what models compute and from
finished runs (docs/slurm.md).

Reads
    targets   as given to snakemake; those of `all` unless given
    --config  configuration files, one over the other, as for snakemake; default: config.yaml, or
              config/config.yaml
    --speed   a file with cards or speeds of your own, laid over rectify/experiment/speeds.yaml
Writes
    nothing; a line for each kind of run, one for each rule, and the sums
"""

import argparse
import json
import sys
from pathlib import Path

from rectify.arguments import add_configs, positive
from rectify.experiment import grid
from rectify.experiment.account import Account
from rectify.experiment.forecast import GPUS, forecast
from rectify.experiment.jobs import files_of, planned
from rectify.experiment.plan import Plan
from rectify.experiment.speeds import load
from rectify.experiment.storage import storage
from rectify.experiment.work import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("targets", nargs="*", metavar="target", help="as given to snakemake")
    add_configs(parser)
    parser.add_argument("--again", action="store_true", help="as if there were no results")
    parser.add_argument("--card", help="GPU of the jobs; default: the one that was timed")
    parser.add_argument("--gpus", type=positive, nargs="+", default=GPUS, help="that share them")
    parser.add_argument("--speed", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> None:
    """Print what the targets take."""
    speeds = load(args.speed)
    config = grid.load(args.config)
    grid.asked(config, args.targets)  # a name that is misspelt ends here
    plan = Plan(config)
    jobs = planned(args.config, files_of(plan, args.targets), args.again)
    card = args.card or speeds.measured_on
    expected = forecast(plan, jobs, speeds, card, count, args.gpus)
    account = Account(expected, storage(plan, jobs, expected.trainings.each, count), args.config)
    text = json.dumps(account.record(), indent=2) if args.json else account.text()
    sys.stdout.write(f"{text}\n")
