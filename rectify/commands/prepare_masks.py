"""List and check the masks of a set's test items; those of images that are drawn are drawn.

Reads
    --settings  JSON: the keys of the set that decide its items and masks
    --prepared  folder of the prepared set
Writes
    --folder    masks.csv (with its .csv.json), and the files of masks that are drawn
"""

import argparse
from pathlib import Path

from rectify.arguments import json_object, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--data", required=True, help="name of the data set")
    parser.add_argument("--settings", type=json_object, metavar="JSON", required=True)
    parser.add_argument("--prepared", type=Path, required=True)
    parser.add_argument("--threads", type=positive, default=1, help="that read files")
    parser.add_argument("--folder", type=Path, required=True, help="of the prepared masks")


def run(args: argparse.Namespace) -> None:
    """Find or draw the masks, check them, and write which is of which image."""
    from rectify.results.declared import MASKS
    from rectify.results.provenance import provenance
    from rectify.results.tables import write_table
    from rectify.tasks import DEFAULT_TASK, masks_modules, masks_preparation_of, settings_of
    from rectify.typed import parse

    task = args.settings.get("task", DEFAULT_TASK)
    prepare = masks_preparation_of(task)
    entry = parse(settings_of(task), args.settings, f"data.{args.data}")
    listing, files = prepare(args.data, entry, args.prepared, args.folder, args.threads)
    facts = {"data": args.data, "settings": args.settings, "files": f"{files}"}
    source = provenance(entry.sizes.get("seed", 0), *masks_modules(task, entry), **facts)
    write_table(MASKS, listing, args.folder / "masks.csv", source)
