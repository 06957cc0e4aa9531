"""Features of the captions after every decoder layer of a language model.

Reads
    --checkpoint  .gguf file, or folder in Hugging Face format
    --pairs       folder of the prepared image-caption pairs, known by the digest of its manifest
Writes
    --output      one tensor (layers, items, dim), safetensors
"""

import argparse
from pathlib import Path

from rectify.arguments import json_object, natural, positive, tensors_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", required=True, help="name of the model")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--untrained", type=natural, metavar="SEED", help="draw the weights")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--batch-size", type=positive, required=True)
    parser.add_argument(
        "--procedure",
        type=json_object,
        default={},
        metavar="JSON",
        help="whether embedding, final_norm, first_token count, as true or false",
    )
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--output", type=tensors_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    from rectify.data.pairs import captions, identity
    from rectify.language.captions import Procedure, caption_features
    from rectify.language.weights import describe
    from rectify.runtime import start
    from rectify.trunks.features import save_features
    from rectify.typed import check_known

    for key, value in args.procedure.items():
        check_known("language-features: --procedure", key, Procedure._fields, "a known key")
        check_known(f"language-features: --procedure {key}", value, [True, False], "true or false")
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
