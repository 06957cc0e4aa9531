"""Get a published model or data set from the hub into a folder, at a fixed revision.

Only what is read later is downloaded: a model's settings, tokenizer and weights (safetensors
where there are any, else ``.bin``), but all files of a data set. Beside them stands
``fetched.json``: which repository, which commit, and every file's size and digest.
"""

import fnmatch
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from rectify.checkpoints import FETCHED
from rectify.records import read_json, write_json

SETTINGS = ("config.json", "tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt")
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
PICKLES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def fetch(hub: str, kind: str, revision: str | None, folder: Path) -> dict[str, Any]:
    """Download a repository's files that are needed, and return what ``fetched.json`` says.

    A download that was cut short goes on; files that are there already stay.

    Args:
        hub: Id of the repository, ``owner/name``.
        kind: ``model`` or ``dataset``.
        revision: Commit, tag or branch; None for the default branch. The commit that it stands
            for is noted, and is what is downloaded.
        folder: Where the files go.

    Raises:
        ValueError: If the hub is out of reach or refuses, the disk is too small, or the folder
            holds files from elsewhere.
    """
    _check_folder(folder, hub)
    with _one_line(hub, revision):
        info = HfApi().repo_info(hub, repo_type=kind, revision=revision, files_metadata=True)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    digests = {file.rfilename: file.lfs and file.lfs.sha256 for file in info.siblings or ()}
    names = _needed(sorted(sizes), kind, hub)
    _check_disk(folder, {name: sizes[name] for name in names}, hub)
    with _one_line(hub, revision):
        snapshot_download(
            hub, repo_type=kind, revision=info.sha, local_dir=folder, allow_patterns=names
        )
    _check_sizes(folder, {name: sizes[name] for name in names})
    files = {name: {"bytes": sizes[name], "sha256": digests[name]} for name in names}
    note = {"hub": hub, "kind": kind, "revision": revision, "commit": info.sha, "files": files}
    write_json(folder / FETCHED, note)
    return note


def _check_folder(folder: Path, hub: str) -> None:
    """Refuse a folder that someone filled otherwise; its files would be overwritten."""
    note = folder / FETCHED
    if note.is_file():
        others = read_json(note)["hub"] != hub
    else:
        others = folder.is_dir() and any(folder.iterdir()) and not (folder / ".cache").is_dir()
    if others:
        raise ValueError(
            f"{folder}: must be new, empty, or fetched from {hub}, got other files. "
            "Move the folder away, or remove hub from the config to use it as it is."
        )


def _needed(names: list[str], kind: str, hub: str) -> list[str]:
    if kind == "dataset":
        return names
    weights = _matching(names, WEIGHTS) or _matching(names, PICKLES)
    settings = _matching(names, SETTINGS)
    if not weights or "config.json" not in settings:
        raise ValueError(
            f"fetch: {hub} must hold config.json and model.safetensors or pytorch_model.bin, got "
            f"{', '.join(names[:8]) or 'no files'}. Name a repository in Hugging Face format."
        )
    return settings + weights


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    """Return the names at the top that match; repositories keep copies in folders."""
    top = [name for name in names if "/" not in name]
    return [name for name in top if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def _check_disk(folder: Path, sizes: dict[str, int], hub: str) -> None:
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    wanted = sum(size for name, size in sizes.items() if not (folder / name).is_file())
    free = shutil.disk_usage(there).free
    if wanted > free:
        raise ValueError(
            f"{folder}: the disk must have {wanted / 1e9:.1f} GB for {hub}, got "
            f"{free / 1e9:.1f} GB free. Make room, or change the folder in the config."
        )


def _check_sizes(folder: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        got = (folder / name).stat().st_size if (folder / name).is_file() else 0
        if got != size:
            raise ValueError(
                f"{folder / name}: must have {size} bytes, got {got}. Delete the file and fetch "
                "again."
            )


@contextmanager
def _one_line(hub: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's client raises into one line that says what to do."""
    try:
        yield
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise ValueError(_unreachable(hub, error)) from None
    except RevisionNotFoundError:
        raise ValueError(
            f"fetch: {hub} must have the revision {revision!r}, got none of that name. Correct "
            "revision in the config, or leave it out for the default branch."
        ) from None
    except HfHubHTTPError as error:
        raise ValueError(_refused(hub, error)) from None
    except (HTTPError, OSError) as error:  # no connection; the disk filled up meanwhile
        raise ValueError(_unreachable(hub, error)) from None


def _unreachable(hub: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return (
        f"fetch: {hub} must be within reach, and its files writable, got {reason}. Run "
        "`snakemake fetch` where there is a network, such as a login node; it goes on where it "
        "stopped."
    )


def _refused(hub: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError) or status == 403:
        return (
            f"fetch: {hub} must be open to you, got status {status}: it is gated. Accept its "
            "licence on the model's page, and log in here with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return (
            f"fetch: {hub} must exist and be open to you, got status {status}. Correct hub in the "
            "config, or log in with `hf auth login` if it is private."
        )
    return f"fetch: {hub} must be given by the hub, got status {status}. Try again later."
