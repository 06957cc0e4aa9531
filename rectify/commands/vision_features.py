"""Features of the images of pairs after every block of a ViT: a trained run's, or timm's.

Reads
    --config      config.json of the run  } for a trained run
    --model       its trained weights     }
    --pretrained  a vision of the config, as JSON, for timm's published weights
    --pairs       folder of the prepared image-caption pairs, known by the digest of its manifest
Writes
    --output      one tensor (layers, items, dim), safetensors
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pretrained", type=json.loads, metavar="JSON")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    """Compute the features, and write them with what is known of their model."""
    from rectify.data.pairs import identity
    from rectify.experiment.run import RunSettings
    from rectify.language.files import read_revision
    from rectify.language.weights import sha256
    from rectify.results.files import read_json
    from rectify.runtime import start
    from rectify.tasks import find
    from rectify.tasks.contract import Machine
    from rectify.tasks.pairs import images
    from rectify.training.models import entry_of, trained
    from rectify.trunks.features import save_features, vision_features
    from rectify.typed import parse

    machine, weights = Machine.of(start(args.threads), args.threads), None
    if args.pretrained:
        name, weights = args.pretrained["name"], images.weights_of(args.pretrained)
        model = images.published(args.pretrained)
        source = images.as_published(model, args.pairs, machine)
    else:
        settings = parse(RunSettings, read_json(args.config), f"{args.config}")
        name, task = settings.vision.name, find(settings.task)
        model = trained(settings, task, None, args.seed, args.model)
        source = images.as_trained(
            task, entry_of(settings, task), args.pairs, settings.recipe, machine
        )
    facts = {
        **identity(args.pairs),
        "vision": name,
        "seed": args.seed,
        "pretrained": bool(args.pretrained),
        "vision_parameters": sum(weight.numel() for weight in model.parameters()),
        "vision_revision": read_revision(weights) if weights else None,
        "vision_sha256": sha256(model.state_dict()),
    }
    batches = images.inputs(source, args.batch_size)
    save_features(vision_features(model.to(machine.device), batches), facts, args.output)
