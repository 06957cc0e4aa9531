"""Parameters, FLOPs, speed and peak memory of a ViT: vanilla, with a block, on a second path.

Reads
    --checkpoint  the language model's folder: its settings, no weights; known models need none
Writes
    --output      a COST table (.csv, with its .csv.json), one row per variant
"""

import argparse
import json
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", type=json.loads, required=True, help="of the config, JSON")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.provenance import provenance
    from rectify.recipes import recipe
    from rectify.records import COST, write_table
    from rectify.runtime import start
    from rectify.speed import VARIANTS, measure

    device, settings = start(args.threads), args.settings
    vision, language, data = (settings[name] for name in ("vision", "language", "data"))
    known = language["name"] if not args.checkpoint.is_dir() else str(args.checkpoint)
    values = dict(settings["training"])
    how = {
        "batch_size": settings["batch_size"],
        "precision": recipe(values.pop("recipe"), **values).precision,
        "final_norm": settings["final_norm"],
    }
    rows = [measure(name, vision, known, **data, **how, device=device) for name in VARIANTS]
    titles = {"vision_title": vision["title"], "language_title": language["title"]}
    source = provenance(None, "rectify.speed", device_type=device.type, **titles, **data, **how)
    write_table(COST, [tuple(row.values()) for row in rows], args.output, source)
