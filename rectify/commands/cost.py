"""Parameters and FLOPs of a trunk, vanilla and with a frozen layer in either path; and its speed.

No weights are needed. FLOPs are those of an image, or of an item of --data: see rectify/cost.py.

Reads
    --language    a known model's name, or a checkpoint's folder (its settings, not its weights)
    --checkpoint  the folder that is read in place of a known model, if it exists
    --data        a set of --config; --vision is a vision there, then
Writes
    --output      a COST table (.csv, with its .csv.json); without it the same on standard output
"""

import argparse
import sys
from pathlib import Path

from rectify.arguments import add_configs, add_gpus, json_object, positive, table_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vision", help="timm name, e.g. vit_small_patch16_224")
    parser.add_argument("--language", help="e.g. llama-7b, or a folder")
    parser.add_argument("--position", default="end", help="early, middle, end or a number")
    parser.add_argument("--image-size", type=positive, help="of images; default: 224")
    parser.add_argument("--classes", type=positive, help="of images; default: 1000")
    parser.add_argument("--data", help="a set, whose items are taken in place of images")
    add_configs(parser)
    parser.add_argument("--time", action="store_true", help="measure speed and memory too")
    parser.add_argument("--batch-size", type=positive, default=1, help="items of a timed step")
    parser.add_argument("--precision", default="float32", help="of timed steps, or bfloat16")
    parser.add_argument("--settings", type=json_object, default={}, metavar="JSON", help="and more")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--threads", type=positive, help="default: as many as torch takes")
    add_gpus(parser)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--output", type=table_path)


def gpus(args: argparse.Namespace) -> int:
    """Return how many GPUs it computes on, where there are any."""
    return int(args.time)


def run(args: argparse.Namespace) -> None:
    import torch

    from rectify.cost import as_json, as_text, design_from, known
    from rectify.results.declared import COST
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.runtime import start
    from rectify.speed import variants

    if args.output and not args.time:
        raise ValueError("cost: --output must come with --time, got it alone. Add --time.")
    options = {**vars(args), **known(args.settings)}
    if args.data is not None:
        from rectify.experiment import grid

        options |= grid.learner(grid.load(args.config), args.data, args.vision or "")
    device = start(args.threads or torch.get_num_threads(), args.gpus)
    how = {name: options[name] for name in ("batch_size", "precision")}
    rows = variants(design_from(options, args.checkpoint), is_timed=args.time, **how, device=device)
    facts = {name: options[name] for name in ("vision", "language", "position")}
    if args.output:
        facts |= {**how, **args.settings, "device_type": device.type}
        source = provenance(None, "rectify.speed", **facts)
        write_table(COST, [tuple(row.values()) for row in rows], args.output, source)
    else:
        sys.stdout.write(f"{as_json(facts, rows) if args.json else as_text(rows)}\n")
