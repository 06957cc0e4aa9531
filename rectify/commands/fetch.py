"""Get a published model or data set from the hub; all other commands work offline.

Of a model only what is read later: settings, tokenizer and weights, safetensors where there are
any, else .bin; of a data set all files. An interrupted download resumes with the same command.
Each file's bytes are compared with the digest that the hub names.

Reads
    the hub's repository, over the network
Writes
    --folder  its files, and fetched.json: hub, kind, revision, the commit that it stands for, and
              size and SHA-256 of each file
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
    from huggingface_hub.errors import HTTPError

    from rectify.data.hub import download
    from rectify.results.files import write_json

    hub, folder = args.hub, args.folder
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".cache").is_dir():
        raise ValueError(
            f"{folder}: must be new, empty or fetched before, got other files. Move it away."
        )
    try:
        fetched = download(hub, args.kind, args.revision, folder)
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system, not of the hub
            raise
        reason = f"{error}".strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"fetch: {hub} must be within reach, open to you and have the revision "
            f"{args.revision or 'of its default branch'}, got {type(error).__name__}: {reason}. "
            "Correct hub and revision, run this where there is a network, or `hf auth login`."
        ) from None
    note = {"hub": hub, "kind": args.kind, "revision": args.revision, **fetched._asdict()}
    write_json(folder / "fetched.json", note)
    logging.getLogger(__name__).info("%s at %s", hub, fetched.commit)
