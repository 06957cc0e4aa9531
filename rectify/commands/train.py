"""Train one run with one seed, and measure the GSNR of its trunk's blocks on the way.

Reads
    --config  config.json of the run
    --data    folder of the prepared data set
    --block   the frozen layer, where the variant has one
    --states  folder of the last two states, to resume from; the last one stays there
Writes
    --output  folder: history.csv, gsnr.csv, model.safetensors, summary.json

SIGTERM, SIGUSR1 and SIGUSR2 save the state and end with status 75: rerun the same command to
resume. A SLURM job of a workflow that still runs is put into the queue again instead.
"""

import argparse
import logging
import os
from pathlib import Path

from rectify.arguments import natural, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--seed", type=natural, required=True)
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--processes", type=natural, default=1, help="that share each batch: GPUs")
    parser.add_argument("--states", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tensorboard", type=Path, help="folder for event files")


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return max(1, args.processes)


def run(args: argparse.Namespace) -> int:
    """Train, after any other process that trains the run; return 0, or 75 to try again."""
    from rectify.cluster import slurm
    from rectify.cluster.presence import lease
    from rectify.training import processes

    if processes.is_launched():  # the process that launched this one has the lease
        return _train(args)
    with lease(args.states / "lease"):
        alone = args.processes <= 1
        status = _train(args) if alone else processes.launch("train", args, args.processes)
    if status == os.EX_TEMPFAIL:
        try:
            slurm.requeue()
        except ValueError as error:  # SLURM does not answer: an attempt of Snakemake's resumes
            logging.getLogger(__name__).error("%s", error)
    return status


def _train(args: argparse.Namespace) -> int:
    from rectify.cluster.presence import PROGRESS
    from rectify.experiment.run import RunSettings
    from rectify.language.block import block_facts
    from rectify.results.files import read_json
    from rectify.runtime import start, stop_asked
    from rectify.training.loop import Interrupted
    from rectify.training.run import Files, Training
    from rectify.typed import parse

    settings = parse(RunSettings, read_json(args.config), f"{args.config}")
    if args.block and (layer := block_facts(args.block)["layer"]) != settings.layer:
        raise ValueError(
            f"{args.block}: must be layer {settings.layer}, as {args.config} says, got layer "
            f"{layer}. Name the run's own with --block."
        )
    files = Files(args.data, args.block, args.states, args.states / PROGRESS, args.output)
    options = {"threads": args.threads, "events": args.tensorboard}
    training = Training(settings, args.seed, files, device=start(args.threads), **options)
    with stop_asked() as stop:
        try:
            training.run(stop)
        except Interrupted as end:
            logging.getLogger(__name__).info("%s", end)
            return os.EX_TEMPFAIL
    return 0
