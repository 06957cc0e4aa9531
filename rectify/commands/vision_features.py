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
from pathlib import Path

from rectify.arguments import json_object, natural, positive, tensors_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pretrained", type=json_object, metavar="JSON")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--seed", type=natural, required=True)
    parser.add_argument("--batch-size", type=positive, required=True)
    parser.add_argument("--threads", type=positive, required=True)
    parser.add_argument("--output", type=tensors_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


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

    if (args.pretrained is None) == (args.config is None) or bool(args.config) != bool(args.model):
        raise ValueError(
            "vision-features: a model must be given by --config and --model, or by --pretrained, "
            "got both, none or one half. Correct the options."
        )
    for key in ("name", "timm") if args.pretrained is not None else ():
        if not isinstance(args.pretrained.get(key), str):
            raise ValueError(
                f"vision-features: --pretrained must have {key} as text, got "
                f'{args.pretrained.get(key)!r}. Write \'{{"name": "vit-t", "timm": '
                '"vit_tiny_patch16_224"}\'.'
            )
    machine, weights = Machine.of(start(args.threads), args.threads), None
    if args.pretrained is not None:
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
        "pretrained": args.pretrained is not None,
        "vision_parameters": sum(weight.numel() for weight in model.parameters()),
        "vision_revision": read_revision(weights) if weights else None,
        "vision_sha256": sha256(model.state_dict()),
    }
    batches = images.inputs(source, args.batch_size)
    save_features(vision_features(model.to(machine.device), batches), facts, args.output)
