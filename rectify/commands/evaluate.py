"""Accuracy of a trained run on the test set and on its shifted versions.

Reads
    --config  config.json of the run
    --model   its trained weights
    --block   the frozen block, where the model keeps it at test
    --data    folder of the prepared data set
Writes
    --output  an `evaluation` table (.csv, with its .csv.json)
"""

import argparse
import logging
from pathlib import Path

PARTIAL = ("a", "r")  # ImageNet-A and -R hold some classes, and only their logits compete

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--block", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.commands import assembly
    from rectify.data.images import load_sets
    from rectify.evaluation import accuracies
    from rectify.provenance import provenance
    from rectify.records import EVALUATION, read_json, write_table
    from rectify.runtime import start

    settings, device = read_json(args.config), start(args.threads)
    model = assembly.trained_of(settings, args.block, args.seed, args.model).to(device)
    assembly.check_labels(args.model, args.data)
    views = settings["data"].get("views", assembly.ONE_VIEW)
    recipe = assembly.recipe_of(settings)
    together = max(1, recipe.batch_size // (views["time"] * views["space"]))
    k, rows = settings["data"]["top_k"], []
    for split, images in load_sets(args.data, "test"):
        shift, condition, severity = _shift(split)
        prepare, transform = assembly.evaluation_transform(settings, shift, views)
        shares = accuracies(
            model,
            assembly.images_of(settings, images, views["time"]),
            images.labels,
            k,
            candidates=images.labels.unique() if shift in PARTIAL else None,
            transform=transform,
            batch_size=together,
            device=device,
            prepare=prepare,
            workers=assembly.workers(device, args.threads),
            precision=recipe.precision,
        )
        rows.append((shift, condition, severity, len(images.labels), k, *shares))
    log.info("%s, seed %d: %d test sets", settings["run"], args.seed, len(rows))
    source = provenance(args.seed, "rectify.evaluation", run=settings["run"])
    write_table(EVALUATION, rows, args.output, source)


def _shift(split: str) -> tuple[str, str, int]:
    """Split ``test-c/noise/3`` into (c, noise, 3); the plain test set is (none, -, 0)."""
    name, *condition = split.split("/")
    shift = name.removeprefix("test").removeprefix("-") or "none"
    return (shift, condition[0], int(condition[1])) if condition else (shift, "-", 0)
