"""Score a trained run on the test set and on its shifted versions.

Reads
    --config      config.json of the run
    --evaluation  JSON: how it is scored, e.g. {"top_k": 5}
    --model       its trained weights
    --block       the frozen layer, where the model keeps it at test time
    --data        folder of the prepared data set
Writes
    --output      a `scores` table (.csv, with its .csv.json), and next to it predictions.parquet:
                  the scores of each item of the plain test set, and of tasks that keep them the
                  model's answers and how active its tokens were
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import add_machine, json_object, natural, table_path

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--evaluation", type=json_object, default={}, metavar="JSON")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=natural, required=True)
    add_machine(parser)
    parser.add_argument("--output", type=table_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    """Score the run, and write both files."""
    from rectify.experiment.run import read_run
    from rectify.results.declared import SCORES
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.runtime import start
    from rectify.training.scoring import code, score, write_predictions

    settings = read_run(args.config)
    device = start(args.threads, args.gpus)
    scored = score(
        settings,
        args.evaluation,
        block=args.block,
        seed=args.seed,
        weights=args.model,
        data=args.data,
        device=device,
        threads=args.threads,
    )
    log.info("%s, seed %d: %d test sets", settings.run, args.seed, len(scored.sets))
    source = provenance(args.seed, *code(settings.task), run=settings.run)
    write_predictions(scored.plain, args.output.with_name("predictions.parquet"))
    write_table(SCORES, scored.rows(), args.output, source)
