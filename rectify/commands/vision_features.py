"""Features of the images after every block of a ViT: a trained run's, or timm's pretrained.

Reads
    --config  config.json of the run             } for a trained run
    --model   its trained weights                }
    --pairs   folder of the prepared image-caption pairs
Writes
    --output  one tensor (layers, items, dim), safetensors
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--pretrained", type=json.loads, help="a vision of the config, as JSON")
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.checkpoints import read_revision
    from rectify.commands import assembly
    from rectify.data.augment import published_transform
    from rectify.data.images import load_set
    from rectify.features import save_features, vision_features
    from rectify.records import read_json
    from rectify.runtime import start
    from rectify.weights import sha256

    device = start(args.threads)
    if args.pretrained:
        vision = args.pretrained
        vit = _published(vision)
        prepare, transform = published_transform(vit)
    else:
        settings = read_json(args.config)
        vision = settings["vision"]
        vit = assembly.trained_of(settings, None, args.seed, args.model)
        prepare, transform = assembly.evaluation_transform(settings)
    digest = sha256(vit.state_dict())
    layers = vision_features(
        vit.to(device),
        load_set(args.pairs, "pairs").images,
        transform=transform,
        batch_size=args.batch_size,
        device=device,
        prepare=prepare,
        workers=assembly.workers(device, args.threads),
    )
    folder = args.pretrained and "weights" in vision and Path(vision["weights"])
    facts = {
        "vision": vision["name"],
        "vision_title": vision["title"],
        "vision_parameters": vision["parameters"],
        "seed": args.seed,
        "pretrained": bool(args.pretrained),
        "vision_revision": read_revision(folder) if folder else None,
        "vision_sha256": digest,
    }
    save_features(layers, facts, args.output)


def _published(vision: dict[str, Any]) -> "VisionTransformer":
    from rectify.vision import create_vit

    name = f"{vision['timm']}.augreg_in21k"  # as in Huh et al.
    own = {}
    if "weights" in vision:
        file = Path(vision["weights"]) / "model.safetensors"
        if not file.is_file():
            raise ValueError(
                f"{file}: timm's weights of {name} must be here, got no file. Run `snakemake "
                "fetch` where there is a network."
            )
        own["pretrained_cfg_overlay"] = {"file": str(file)}
    return create_vit(name, num_classes=0, image_size=224, pretrained=True, overrides=own)
