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

from rectify.arguments import add_machine, json_object, natural, positive, tensors_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pretrained", type=json_object, metavar="JSON")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--seed", type=natural, required=True)
    parser.add_argument("--batch-size", type=positive, required=True)
    add_machine(parser)
    parser.add_argument("--output", type=tensors_path, required=True)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return 1


def run(args: argparse.Namespace) -> None:
    """Compute the features, and write them with what is known of their model."""
    from rectify.data.pairs import identity
    from rectify.experiment.run import read_run
    from rectify.language.files import read_revision
    from rectify.runtime import start
    from rectify.tasks import find
    from rectify.tasks.contract import Machine
    from rectify.tasks.pairs import images
    from rectify.training.models import entry_of, trained
    from rectify.trunks.features import model_facts, save_features, vision_features

    images.check_given(args.config, args.model, args.pretrained)
    machine, weights = Machine.of(start(args.threads, args.gpus), args.threads), None
    if args.pretrained is not None:
        model = images.published(args.pretrained)
        name, weights = args.pretrained["name"], images.weights_of(args.pretrained)
        source = images.as_published(model, args.pairs, machine)
    else:
        settings = read_run(args.config)
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
        "vision_revision": read_revision(weights) if weights else None,
        **model_facts(model),
    }
    batches = images.inputs(source, args.batch_size)
    save_features(vision_features(model.to(machine.device), batches), facts, args.output)
