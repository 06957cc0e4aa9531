"""Parameters, FLOPs and speed of a ViT, plain and with a frozen language-model block.

No weights are needed: counting takes shapes, timing takes random weights. FLOPs are those of
one image, in the paper's convention, and in two others beside it (see rectify/cost.py).

Reads
    --language  a known model's name, or a checkpoint's folder (its settings, not its weights)
Writes
    a table, or with --json the same as JSON, to the standard output
"""

import argparse
import json
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vision", required=True, help="timm name, e.g. vit_small_patch16_224")
    parser.add_argument("--language", required=True, help="e.g. llama-7b, or a folder")
    parser.add_argument("--position", required=True, help="early, middle, end or a number")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--frames", type=int, default=1, help="of a clip: VideoMAE's ViT")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1, help="images per timed forward pass")
    parser.add_argument("--threads", type=int, help="default: as many as torch takes")
    parser.add_argument("--no-measure", action="store_true", help="count, but do not time")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> None:
    import torch

    from rectify.cost import cost
    from rectify.runtime import start

    device = start(args.threads or torch.get_num_threads())
    position = args.position
    numbers = cost(
        args.vision,
        args.language,
        int(position) if position.isdecimal() else position,
        image_size=args.image_size,
        classes=args.classes,
        batch_size=args.batch_size,
        frames=args.frames,
        device=None if args.no_measure else device,
    )
    settings = {name: getattr(args, name) for name in ("vision", "language", "position")}
    text = json.dumps(settings | numbers, indent=2) if args.json else _table(numbers)
    sys.stdout.write(f"{text}\n")


def _table(numbers: dict[str, Any]) -> str:
    flops, seconds = numbers["flops"], numbers["seconds_per_image"]
    rows = {
        "parameters": _pair(numbers["parameters"], ",d"),
        "GFLOPs, paper's convention": _giga(flops),
        **{
            f"GFLOPs, {name.replace('_', ' ')}": _giga(counts)
            for name, counts in flops["conventions"].items()
        },
        "seconds per image": _pair(seconds, ".4f") if seconds else ("-", "-"),
    }
    lines = [("", ("vision", "rectified")), *rows.items()]
    return "\n".join(f"{name:34}{plain:>14}{both:>14}" for name, (plain, both) in lines)


def _giga(counts: dict[str, Any]) -> tuple[str, str]:
    return _pair({name: counts[name] / 1e9 for name in ("vision", "rectified")}, ".4f")


def _pair(counts: dict[str, Any], form: str) -> tuple[str, str]:
    return format(counts["vision"], form), format(counts["rectified"], form)
