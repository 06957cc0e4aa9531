"""Pretrain a small language model, character by character, on the names of Unicode's characters.

Reads
    nothing: the names come with Python
Writes
    --output  folder in Hugging Face format, with the curve: a `pretraining` table
"""

import argparse
import logging
from pathlib import Path

from rectify.arguments import json_object, natural

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="name of the model")
    parser.add_argument(
        "--settings", type=json_object, required=True, metavar="JSON", help="sizes and steps"
    )
    parser.add_argument("--seed", type=natural, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from transformers.utils.logging import disable_progress_bar

    from rectify.demo.language_models import pretrain
    from rectify.demo.pairs import names_corpus
    from rectify.demo.pretraining import Pretraining
    from rectify.runtime import start
    from rectify.typed import parse

    settings = parse(Pretraining, args.settings, "--settings").model_dump(exclude_none=True)
    disable_progress_bar()
    start(threads=1)  # so that every machine of a kind gets the same weights
    loss = pretrain(args.output, names_corpus(), language=args.language, seed=args.seed, **settings)
    log.info("%s: validation loss %.4f nats per character", args.language, loss)
