"""Features of the captions after every decoder block of a language model.

Reads
    --checkpoint  folder in Hugging Face format
    --pairs       folder of the prepared image-caption pairs
Writes
    --output      one tensor (layers, items, dim), safetensors
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", type=json.loads, required=True, help="name and title, JSON")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.captions import caption_features
    from rectify.data.pairs import captions
    from rectify.features import save_features
    from rectify.language import describe
    from rectify.runtime import start

    device = start(args.threads)
    texts = captions(args.pairs)
    layers, read = caption_features(args.checkpoint, texts, args.batch_size, device=device)
    facts = {
        "language": args.language["name"],
        "language_title": args.language["title"],
        "language_parameters": describe(args.checkpoint)["parameters"],
        **{f"language_{name}": value for name, value in read.items()},
    }
    save_features(layers, facts, args.output)
