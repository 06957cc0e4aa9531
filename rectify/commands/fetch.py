"""Get a published model or data set from the hub; all other commands work offline.

Of a model only what is read later: settings, tokenizer and weights, safetensors where there are
any, else .bin; of a data set all files. An interrupted download resumes with the same command.

Reads
    the hub's repository, over the network
Writes
    --folder  its files, and fetched.json: hub, kind, revision and the commit that it stands for
"""

import argparse
import fnmatch
import logging
from functools import partial
from pathlib import Path

SETTINGS = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hub", required=True, metavar="OWNER/NAME")
    parser.add_argument("--kind", choices=("model", "dataset"), required=True)
    parser.add_argument("--revision", help="commit, tag or branch; default: the default branch")
    parser.add_argument("--folder", type=Path, required=True)


def run(args: argparse.Namespace) -> None:
    from huggingface_hub.errors import HTTPError

    from rectify.results.files import write_json

    hub, folder = args.hub, args.folder
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ".cache").is_dir():
        raise ValueError(
            f"{folder}: must be new, empty or fetched before, got other files. Move it away."
        )
    try:
        commit = _download(hub, args.kind, args.revision, folder)
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None):  # of the file system, not of the hub
            raise
        reason = f"{error}".strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"fetch: {hub} must be within reach, open to you and have the revision "
            f"{args.revision or 'of its default branch'}, got {type(error).__name__}: {reason}. "
            "Correct hub and revision, run this where there is a network, or `hf auth login`."
        ) from None
    note = {"hub": hub, "kind": args.kind, "revision": args.revision, "commit": commit}
    write_json(folder / "fetched.json", note)
    logging.getLogger(__name__).info("%s at %s", hub, commit)


def _download(hub: str, kind: str, revision: str | None, folder: Path) -> str:
    """Download what is not there yet, and return the commit.

    When the client loses the hub it is content with files of another commit that are there:
    a dry run afterwards tells.
    """
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().repo_info(hub, repo_type=kind, revision=revision)
    names = [file.rfilename for file in info.siblings or ()]
    names = names if kind == "dataset" else _needed(names, hub)
    download = partial(
        snapshot_download, hub, repo_type=kind, revision=info.sha, local_dir=folder,
        allow_patterns=names,
    )  # fmt: skip
    download()
    for file in download(dry_run=True):
        if file.will_download or file.commit_hash != info.sha:
            raise OSError(f"{file.filename} of another commit")
    return info.sha


def _needed(names: list[str], hub: str) -> list[str]:
    """Return the files of a model at the top that are read; repositories keep copies in folders."""
    settings, safe, pickled = (
        [name for name in names if "/" not in name and any(fnmatch.fnmatch(name, p) for p in kind)]
        for kind in (SETTINGS, WEIGHTS, PICKLES)
    )
    weights = safe or pickled
    if "config.json" not in settings or not weights:
        raise ValueError(
            f"fetch: {hub} must hold config.json and model.safetensors or pytorch_model.bin, got "
            f"{', '.join(names[:8]) or 'no files'}. Name a repository in Hugging Face format."
        )
    return settings + weights
