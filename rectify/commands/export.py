"""Export a trained run as a folder that plain timm loads, with a model card.

    timm.create_model("local-dir:FOLDER", pretrained=True)

Reads
    --run     run folder: config.json, labels.json and seed-<s>/{history,gsnr,scores}.csv,
                  model.safetensors
    --data    folder of the prepared set that it learnt
Writes
    --output  folder: config.json, model.safetensors, README.md
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import natural


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=natural, required=True, help="whose weights are exported")
    parser.add_argument(
        "--seeds", type=natural, nargs="+", help="that the card speaks of; default: the one"
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--licence", required=True, help="of the weights, as the hub calls it")
    parser.add_argument(
        "--language-licence", help="of the language model, where one took part: docs/data.md"
    )
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Write the folder, the card last."""
    from rectify.analysis.card import card
    from rectify.analysis.collect import Results
    from rectify.experiment.run import read_run
    from rectify.results.files import atomic_path
    from rectify.training.timm_folder import plain_task, write_timm_folder

    settings = read_run(args.run / "config.json")
    task = plain_task(settings)
    seeds = list(dict.fromkeys([args.seed, *(args.seeds or ())]))
    text = card(
        Results([args.run], seeds), licence=args.licence, language_licence=args.language_licence
    )
    weights = args.run / f"seed-{args.seed}" / "model.safetensors"
    write_timm_folder(
        settings, task, args.seed, weights=weights, data=args.data, licence=args.licence,
        folder=args.output,
    )  # fmt: skip
    with atomic_path(args.output / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    logging.getLogger(__name__).info("wrote %s", args.output)
