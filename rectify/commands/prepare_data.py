"""Check, count and freeze a data set: which items it has, in which split, under which label.

    rectify prepare-data --check --data bar --config config.yaml

reports counts, classes and unreadable files of a set, and writes nothing.

Reads
    --settings  JSON: the keys of the set that decide its items; or
    --config    configurations, the later ones laid over the earlier
    --shift     one of its shifted test sets, whose folder the settings name, instead
Writes
    --folder    manifest.csv (with its .csv.json), and arrays.safetensors of a set in memory
"""

import argparse
from pathlib import Path

from rectify.arguments import json_object, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--data", required=True, help="name of the data set")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--settings", type=json_object, metavar="JSON")
    source.add_argument("--config", type=Path, nargs="+", metavar="YAML")
    parser.add_argument("--shift", help="of a set in files: c, a, sk or r")
    parser.add_argument("--threads", type=positive, default=1, help="that read files")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--folder", type=Path, help="of the prepared set")
    target.add_argument("--check", action="store_true", help="report, and write nothing")


def run(args: argparse.Namespace) -> None:
    """Read or draw the set, check it, and write it."""
    from rectify.data.manifests import class_names, counts
    from rectify.results.provenance import provenance
    from rectify.tasks import DEFAULT_TASK, preparation_modules, preparation_of, settings_of
    from rectify.typed import parse

    settings = _configured(args) if args.settings is None else args.settings
    task = settings.get("task", DEFAULT_TASK)
    entry = parse(settings_of(task), settings, f"data.{args.data}")
    if args.shift is not None and args.shift not in entry.shift_names:
        raise ValueError(
            f"prepare-data: --shift must be one of {', '.join(entry.shift_names) or 'none'}, whose "
            f"folders the settings of {args.data} name, got {args.shift}. Correct it."
        )
    prepared = preparation_of(task)(args.data, entry, args.shift, args.threads)
    if args.check:
        return
    facts = {
        "data": args.data,
        "settings": entry.preparation(args.shift),
        "left_out": list(prepared.left_out),
        "items": counts(prepared.listing),
        "classes": class_names(prepared.listing),
    }
    seed, modules = entry.sizes.get("seed", 0), preparation_modules(task, entry)
    prepared.write(args.folder, provenance(seed, *modules, **facts))


def _configured(args: argparse.Namespace) -> dict[str, object]:
    """Return the keys of the set that decide its items, from configurations."""
    from rectify.experiment.grid import load
    from rectify.typed import check_known

    known = load(args.config).data
    check_known("prepare-data: --data", args.data, known, "a set of the configuration")
    return known[args.data].preparation(args.shift)
