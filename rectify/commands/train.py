"""Train one run with one seed, and measure the GSNR of its trunk's blocks on the way.

Reads
    --config  config.json of the run
    --data    folder of the prepared data set
    --block   the frozen layer, where the variant has one
    --masks   folder of the set's prepared masks, where the config compares activations with them
    --states  folder of the last two states, to resume from; the last one stays there
Writes
    --output  folder: history.csv, gsnr.csv, model.safetensors, summary.json, noise.csv if asked
    --events  folder for files of --trackers, which show its curves

SIGTERM, SIGUSR1 and SIGUSR2 save the state and end with status 75: rerun the same command to
resume. A SLURM job of a workflow that still runs is put into the queue again instead.
"""

import argparse
import os
from pathlib import Path

from rectify.arguments import add_machine, natural, positive
from rectify.training.trackers import TRACKERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    for name in ("config", "data", "states", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--seed", type=natural, required=True)
    parser.add_argument("--processes", type=natural, default=1, help="that share each batch: GPUs")
    parser.add_argument("--nodes", type=positive, default=1, help="of this SLURM job, that do")
    add_machine(parser)
    parser.add_argument("--trackers", nargs="+", choices=TRACKERS, default=(), help="show curves")
    parser.add_argument("--events", type=Path, default=Path("events"), help="folder of theirs")


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return max(1, args.processes)


def run(args: argparse.Namespace) -> int:
    """Train, after any other process that trains the run; return 0, or 75 to try again."""
    from rectify.cluster import presence, slurm
    from rectify.training import processes

    if processes.is_launched():  # the process that launched this one has the lease
        return processes.end_together(_train(args))
    with presence.lease(args.states / "lease"):
        is_alone = max(args.nodes, args.processes) <= 1
        status = _train(args) if is_alone else processes.launch("train", args)
    if status == os.EX_TEMPFAIL:
        slurm.try_requeue()
    return status


def _train(args: argparse.Namespace) -> int:
    from rectify.cluster.presence import PROGRESS
    from rectify.experiment.outlined import outlining
    from rectify.experiment.run import read_run
    from rectify.runtime import start
    from rectify.training.run import Files, Training, complete

    settings = read_run(args.config)
    files = Files(args.data, args.block, args.states, args.states / PROGRESS, args.output)
    device, outline = start(args.threads, args.gpus), outlining(settings, args.data, args.masks)
    options = {name: getattr(args, name) for name in ("threads", "trackers", "events")}
    return complete(Training(settings, args.seed, files, device=device, **options, **outline))
