"""Answer a benchmark's public test set, whose own answers are withheld, for its server.

Reads
    --config      config.json of a run of motion forecasting or visual question answering
    --model       its trained weights
    --block       the frozen layer, where the model keeps it at test time
    --reader      argoverse1, argoverse2 or vqav2
    --folder      folder of the set as unpacked, with the test set
    --data        of questions, folder of the prepared set that the run has learned
Writes
    --output      .h5 of argoverse1, .parquet of argoverse2: the six most likely trajectories of
                  each scene and their probabilities; .json of vqav2: the likeliest answer to each
                  question of test2015, of which test-dev is a part
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import add_machine, natural, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--reader", choices=("argoverse1", "argoverse2", "vqav2"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--reach", type=positive, help="metres, as for training; 100 unless given")
    parser.add_argument("--seed", type=natural, required=True)
    add_machine(parser)
    parser.add_argument("--output", type=Path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    """Answer all items, and write the file."""
    from rectify.experiment.run import read_run
    from rectify.results.files import atomic_path
    from rectify.runtime import start
    from rectify.tasks import find, submission_of
    from rectify.tasks.contract import Machine
    from rectify.training.evaluation import item_values
    from rectify.training.models import check_labels, entry_of, trained

    settings = read_run(args.config)
    task, recipe = find(settings.task), settings.recipe
    machine = Machine.of(start(args.threads, args.gpus), args.threads)
    if args.data is not None:
        check_labels(args.model, args.data)
    where = (args.reader, args.folder, args.data, args.reach)
    test = submission_of(settings.task).public(*where, entry_of(settings, task), machine)
    model = trained(settings, task, args.block, args.seed, args.model).to(machine.device)
    options = {"batch_size": recipe.batch_size, "precision": recipe.precision}
    answers = item_values(model, task.answers, test.source, device=machine.device, **options)
    with atomic_path(args.output) as temporary:
        test.write(temporary, answers)
    logging.getLogger(__name__).info("wrote %s: %d items", args.output, len(test.source))
