"""Features of the captions after every decoder layer of a language model.

Reads
    --checkpoint  .gguf file, or folder in Hugging Face format
    --pairs       folder of the prepared image-caption pairs, known by the digest of its manifest
Writes
    --output      one tensor (layers, items, dim), safetensors
"""

import argparse
from pathlib import Path

from rectify.arguments import add_machine, json_object, natural, positive, tensors_path


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
    add_machine(parser)
    parser.add_argument("--output", type=tensors_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    from rectify.data.pairs import captions, identity
    from rectify.language.captions import caption_features, procedure_of
    from rectify.language.weights import describe
    from rectify.runtime import start
    from rectify.trunks.features import save_features

    procedure = procedure_of(args.procedure)
    device = start(args.threads, args.gpus)
    texts = captions(args.pairs)
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
