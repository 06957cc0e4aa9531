"""The state of an unfinished training: a folder with the last two, good only for what made them.

A file's name holds its number and the SHA-256 of its content, ``00000012-<digest>.pt``. It
gets this name when it is complete and on disk, and the one before stays until then. So a file
that was cut, or changed by a failing disk, is known by its name, and the one before is used.
"""

import hashlib
import json
import logging
import os
import pickle
import re
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path

import torch

from rectify.results.files import sync

log = logging.getLogger(__name__)

KEPT = 2
State = dict[str, object]
NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.pt")


class States:
    """The last states of one training.

    Args:
        folder: Holds the states, and nothing else with such a name.
        made_with: The ``identity`` of everything that decides the run's results.
    """

    def __init__(self, folder: Path, made_with: str):
        self.folder, self.identity = folder, made_with
        self.damaged: list[Path] = []

    def save(self, state: State) -> None:
        """Add a state; it is on disk before the oldest is removed, or those found damaged.

        Args:
            state: Tensors, numbers, strings, and lists and mappings of them.
        """
        before = self._files()
        number = int(before[-1].name[:8]) + 1 if before else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / "unfinished.pt"  # one writer: the next attempt overwrites it
        try:
            with temporary.open("wb") as file:
                _write({"identity": self.identity, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self.folder / f"{number:08d}-{sha256(temporary)}.pt")
        finally:
            temporary.unlink(missing_ok=True)
        sync(self.folder)
        intact = [file for file in before if file not in self.damaged]
        for old in self.damaged + intact[: 1 - KEPT]:
            old.unlink()
        self.damaged = []

    def load(self) -> State | None:
        """Return the last intact state; None if there is none, or it was made with something else.

        Raises:
            ValueError: If there are files and all are damaged.
        """
        files = self._files()
        for file in reversed(files):
            if sha256(file) != NAME.fullmatch(file.name)[2]:
                log.info("%s is damaged: its content is not what was written", file)
                self.damaged.append(file)
                continue
            saved = _read(file)
            if saved["identity"] == self.identity:
                return saved["state"]
            log.info("the state is of other code, data or settings: training from the start")
            return None
        if files:
            raise ValueError(
                f"{self.folder}: must hold an intact state, got {len(files)} damaged. "
                "Check the disk; delete the folder to train from the start."
            )
        return None

    def keep_last(self) -> None:
        """Remove all states but the last: the training has ended."""
        for file in self._files()[:-1]:
            file.unlink()

    def _files(self) -> list[Path]:
        """Return the states, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if NAME.fullmatch(path.name))


def _write(content: State, file: BufferedIOBase) -> None:
    """Save to a file; torch hides an error of the file system behind one of its own.

    Raises:
        OSError: If the file system does not take it.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def identity(settings: dict, code: str, files: Sequence[Path | None]) -> str:
    """Return a digest of settings, code and the contents of the files that exist."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(code.encode())
    for file in files:
        if file is not None and file.is_file():
            digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()


def _read(file: Path) -> dict:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or "an empty file").splitlines()[0]
        raise ValueError(
            f"{file}: must be a state that `rectify train` wrote, got {reason}. "
            "Delete it to train from the start."
        ) from None


def sha256(file: Path) -> str:
    """Return the digest of a file's contents."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
