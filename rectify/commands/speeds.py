"""Items per second of trainings on this machine, as `rectify plan` takes them by --speed.

A few training steps of each model, with random weights and items, in the batches, passes and
precision of its recipe. Neither data nor weights are needed; reading items is not timed.

Reads
    runs      names of runs, or patterns of them, as argoverse_*; all runs unless given
    --config  configuration files, one over the other, as for snakemake; default: config.yaml, or
              config/config.yaml
Writes
    standard output: a YAML file for --speed, a line for each run as soon as it is timed
"""

import argparse
import sys
from fnmatch import fnmatchcase

from rectify.arguments import add_configs, add_gpus, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("runs", nargs="*", metavar="run", default=["*"], help="a name or a pattern")
    add_configs(parser)
    parser.add_argument("--threads", type=positive, help="default: as many as torch takes")
    add_gpus(parser)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    """Time the runs."""
    import torch

    from rectify.experiment import grid
    from rectify.experiment.plan import Plan
    from rectify.experiment.timing import items_per_second
    from rectify.experiment.work import subject
    from rectify.runtime import device_text, start

    plan = Plan(grid.load(args.config))
    every = grid.all_runs(plan.config)
    for pattern in args.runs:
        if not any(fnmatchcase(one.name, pattern) for one in every):
            raise ValueError(
                f"speeds: runs must be names or patterns of runs of the configuration, got "
                f"{pattern!r}, which is none. `rectify status` lists them."
            )
    chosen = [one for one in every if any(fnmatchcase(one.name, words) for words in args.runs)]
    device = start(args.threads or torch.get_num_threads(), args.gpus)
    sys.stdout.write(f"# Timed on {device_text(device)}\nitems_per_second:\n")
    timed: dict[tuple[str, str], float] = {}
    for one in chosen:
        key = (subject(plan, one).key, grid.recipe_of(plan.config, one).model_dump_json())
        if key not in timed:
            timed[key] = items_per_second(plan, one, device)
        sys.stdout.write(f"  {one.name}: {timed[key]:.5g}\n")
        sys.stdout.flush()
