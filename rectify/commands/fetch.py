"""Get a published model or data set from the hub; all other commands work offline.

Reads
    the hub's repository, over the network
Writes
    --folder  its files, and fetched.json: commit, files, sizes and digests
"""

import argparse
import logging
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hub", required=True, metavar="OWNER/NAME")
    parser.add_argument("--kind", choices=("model", "dataset"), required=True)
    parser.add_argument("--revision", help="commit, tag or branch; default: the default branch")
    parser.add_argument("--folder", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from rectify.fetch import fetch

    note = fetch(args.hub, args.kind, args.revision, args.folder)
    size = sum(file["bytes"] for file in note["files"].values())
    logging.getLogger(__name__).info(
        "%s at %s: %d files, %.1f GB", args.hub, note["commit"], len(note["files"]), size / 1e9
    )
