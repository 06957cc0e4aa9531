"""Features of the captions after every decoder layer of a language model.

Reads
    --checkpoint  .gguf file, or folder in Hugging Face format
    --pairs       folder of the prepared image-caption pairs, known by the digest of its manifest
Writes
    --output      one tensor (layers, items, dim), safetensors
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="name of the model")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--untrained", type=int, metavar="SEED", help="draw the weights")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--procedure", type=json.loads, default={}, help="a `Procedure`, as JSON")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.data.pairs import captions, identity
    from rectify.language.captions import Procedure, caption_features
    from rectify.language.weights import describe
    from rectify.runtime import start
    from rectify.trunks.features import save_features

    device = start(args.threads)
    texts = captions(args.pairs)
    procedure = Procedure(**args.procedure)
    parameters = describe(args.checkpoint).parameters
    layers, origin = caption_features(
        args.checkpoint,
        texts,
        args.batch_size,
        procedure,
        untrained=args.untrained,
        device=device,
    )
    facts = {
        "procedure": procedure._asdict(),
        "first_layer": procedure.first_layer,
        **identity(args.pairs),
        "language": args.language,
        "language_parameters": parameters,
        "language_untrained": args.untrained,
        "language_revision": origin.revision,
        "language_sha256": origin.sha256,
    }
    save_features(layers, facts, args.output)
