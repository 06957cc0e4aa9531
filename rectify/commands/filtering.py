"""Compare the activations of a trained run's tokens with masks of the objects in test items.

Reads
    --config      config.json of the run
    --filtering   JSON: what the paper leaves open, e.g. {"cover": 0.5}
    --model       its trained weights
    --block       the frozen layer, where the model keeps it at test time
    --data        folder of the prepared data set
    --masks       folder of its prepared masks
Writes
    --output      a `filtering` table (.csv, with its .csv.json), and next to it maps.safetensors:
                  the activations of a few items, for pictures
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import add_machine, json_object, natural, table_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--filtering", type=json_object, default={}, metavar="JSON")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--seed", type=natural, required=True)
    add_machine(parser)
    parser.add_argument("--output", type=table_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    """Measure the activations, and write both files."""
    from rectify.experiment.codes import modules
    from rectify.experiment.run import read_run
    from rectify.filtering.measure import measure, save_pictures
    from rectify.filtering.settings import Filtering
    from rectify.results.declared import FILTERING
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.runtime import start
    from rectify.tasks import find
    from rectify.tasks.contract import Machine
    from rectify.training.models import entry_of, trained
    from rectify.typed import parse

    settings = read_run(args.config)
    chosen = parse(Filtering, args.filtering, "filtering")
    machine = Machine.of(start(args.threads, args.gpus), args.threads)
    task, recipe = find(settings.task), settings.recipe
    entry = entry_of(settings, task)
    model = trained(settings, task, args.block, args.seed, args.model).to(machine.device)
    test = next(task.test_sets(entry, args.data, recipe, machine)).source
    masks = task.masks(entry, args.data, args.masks, recipe)
    measured = measure(model, test, masks, chosen, args.seed)
    source = provenance(
        args.seed, *modules("filtering", settings.task), run=settings.run, **args.filtering
    )
    save_pictures(measured.pictures, args.output.with_name("maps.safetensors"))
    write_table(FILTERING, measured.rows, args.output, source)
    logging.getLogger(__name__).info("%s, seed %d: filtering", settings.run, args.seed)
