"""The state of an unfinished training: one file, good only for what it was made with."""

import hashlib
import json
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rectify.records import atomic_path

log = logging.getLogger(__name__)


class Checkpoint:
    """The state after the last whole epoch.

    Args:
        path: The file; it is replaced atomically.
        made_with: The ``identity`` of everything that decides the run's results.
    """

    def __init__(self, path: Path, made_with: str):
        self.path, self.identity = path, made_with

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        with atomic_path(self.path) as temporary:
            torch.save({"identity": self.identity, "state": state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """Return the saved state; None if there is none, or it was made with something else.

        Raises:
            ValueError: If the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = (str(error) or "an empty file").splitlines()[0]
            raise ValueError(
                f"{self.path}: must be a whole checkpoint, got {reason}. "
                "Delete it to train from the start."
            ) from None
        if saved["identity"] != self.identity:
            log.info("the checkpoint is of other code, data or settings: training from the start")
            return None
        return saved["state"]

    def delete(self) -> None:
        """Remove the file: the training has ended."""
        self.path.unlink(missing_ok=True)


def identity(settings: dict[str, Any], code: str, files: Sequence[Path | None]) -> str:
    """Return a digest of settings, code and the contents of the files that exist."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(code.encode())
    for file in files:
        if file is not None and file.is_file():
            digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()


def sha256(file: Path) -> str:
    """Return the digest of a file's contents."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
