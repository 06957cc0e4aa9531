"""Pretrain a small language model, character by character, on the names of Unicode's characters.

Reads
    nothing: the names come with Python
Writes
    --output  folder in Hugging Face format, with the curve: a `pretraining` table
"""

import argparse
import json
import logging
from pathlib import Path

log = logging.getLogger(__name__)

REQUIRED = {"family", "layers", "hidden", "heads", "steps"}
OPTIONAL = {"batch_size", "context", "lr"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="name of the model")
    parser.add_argument("--settings", type=json.loads, required=True, help="sizes and steps, JSON")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    settings = _checked(args.settings)
    from transformers.utils.logging import disable_progress_bar

    from rectify.demo.language_models import pretrain
    from rectify.demo.pairs import names_corpus
    from rectify.runtime import start

    disable_progress_bar()
    start(threads=1)  # so that every machine of a kind gets the same weights
    loss = pretrain(args.output, names_corpus(), language=args.language, seed=args.seed, **settings)
    log.info("%s: validation loss %.4f nats per character", args.language, loss)


def _checked(settings: dict[str, object]) -> dict[str, object]:
    wrong = sorted((set(settings) - REQUIRED - OPTIONAL) | (REQUIRED - set(settings)))
    if wrong:
        raise ValueError(
            f"--settings: must have {', '.join(sorted(REQUIRED))} and may have "
            f"{', '.join(sorted(OPTIONAL))}, got it wrong for {', '.join(wrong)}. Correct the keys."
        )
    return settings
