"""Repositories of the hub: what of one is needed, and whether it came as it is there.

The client compares sizes alone. Here each file is read once more: its SHA-256 must be the one
that the hub names, or, of small files in git, its git digest.
"""

import fnmatch
import hashlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.hf_api import RepoSibling

from rectify.results.files import read_json

SETTINGS = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # whole or in parts; one of them is enough


class Fetched(NamedTuple):
    """What a folder holds.

    Attributes:
        commit: Of the repository.
        files: Size in bytes, and SHA-256, of each file by its name.
    """

    commit: str
    files: dict[str, dict[str, int | str]]


def download(hub: str, kind: str, revision: str | None, folder: Path) -> Fetched:
    """Download what is not there yet, and check all of it.

    Args:
        hub: ``owner/name`` of the repository.
        kind: ``model``, of which only what is read later is needed, or ``dataset``.
        revision: Commit, tag or branch; None for the default branch.
        folder: Where the files go.

    Raises:
        ValueError: If a model lacks a file that is needed, or the bytes of a file are not the
            hub's; such a file is deleted.
        OSError: If the hub has other files meanwhile; what the client raises besides.
    """
    info = HfApi().repo_info(hub, repo_type=kind, revision=revision, files_metadata=True)
    offered = {file.rfilename: file for file in info.siblings or ()}
    at = {"repo_type": kind, "revision": info.sha, "local_dir": folder}
    names = list(offered)
    if kind == "model":
        names = _settings(names, hub) + _weights(names, hub, partial(hf_hub_download, hub, **at))
    take = partial(snapshot_download, hub, **at, allow_patterns=names)
    take()
    for file in take(dry_run=True):  # content with files of another commit when it loses the hub
        if file.will_download or file.commit_hash != info.sha:
            raise OSError(f"{file.filename} of another commit")
    return Fetched(info.sha, {name: _checked(folder / name, offered[name]) for name in names})


def _settings(names: list[str], hub: str) -> list[str]:
    """Return the files of settings and tokenizer at the top; folders have copies of models."""
    tops = [name for name in names if "/" not in name]
    settings = [name for name in tops if any(fnmatch.fnmatch(name, one) for one in SETTINGS)]
    if "config.json" not in settings:
        raise ValueError(_lacking(names, hub))
    return settings


def _weights(names: list[str], hub: str, take: partial) -> list[str]:
    """Return the files of weights: one, or an index and the parts that it lists."""
    for file in WEIGHTS:
        index = f"{file}.index.json"
        if index in names:
            return [index, *_parts(Path(take(index)), names, hub)]
        if file in names:
            return [file]
    raise ValueError(_lacking(names, hub))


def _parts(index: Path, names: list[str], hub: str) -> list[str]:
    """Return the files that an index of weights lists, whatever their names."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    parts = set(places.values()) if isinstance(places, dict) else set()
    if not parts or parts - set(names):
        lost = f"no {min(parts - set(names))}" if parts else "no weight_map"
        raise ValueError(
            f"fetch: {hub} must hold the parts that {index.name} lists, got {lost}. Name another "
            "revision or repository."
        )
    return sorted(parts)


def _lacking(names: list[str], hub: str) -> str:
    weights = (".safetensors", ".bin", ".pth", ".gguf", ".json")
    near = [name for name in names if name.endswith(weights)] or names
    return (
        f"fetch: {hub} must hold config.json and {' or '.join(WEIGHTS)}, or an index of their "
        f"parts, got {', '.join(near[:8]) or 'no files'}. Name a repository in Hugging Face format."
    )


def _checked(path: Path, offered: RepoSibling) -> dict[str, int | str]:
    """Return size and SHA-256 of a file, which must be those that the hub has."""
    size = path.stat().st_size
    with path.open("rb") as file:
        whole = hashlib.file_digest(file, "sha256").hexdigest()
    got, expected, what = whole, offered.lfs and offered.lfs.sha256, "SHA-256"
    if offered.lfs is None:  # in git itself, which digests the size too
        what, expected = "git digest", offered.blob_id
        got = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    if expected is not None and got != expected:
        path.unlink()
        raise ValueError(
            f"{path}: must have the {what} {expected[:12]} that the hub names, got {got[:12]}; it "
            "is deleted. Run the same command again."
        )
    return {"size": size, "sha256": whole}
