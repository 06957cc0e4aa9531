"""Checkpoints: settings and named tensors, read without building a model.

Whatever the format (`FORMATS`), they come under the settings and the names of Hugging Face's.
"""

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from rectify.language import gguf_format, hugging_face_format, meta_format
from rectify.results.files import read_json
from rectify.tensors import Tensors

FETCHED = "fetched.json"  # what `rectify fetch` leaves in a folder


@runtime_checkable
class Format(Protocol):
    """How checkpoints of one format are read; a module has these functions."""

    def is_here(self, checkpoint: Path) -> bool:
        """Return whether a file or folder is in this format."""

    def read_settings(self, checkpoint: Path) -> dict[str, object]:
        """Return what ``config.json`` holds, or would hold."""

    def tensor_names(self, checkpoint: Path) -> list[str]:
        """Return the name of every tensor."""

    def read_tensors(self, checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
        """Return the tensors whose names match."""

    def tensor_shapes(self, checkpoint: Path) -> dict[str, torch.Size]:
        """Return the shape of every tensor."""


FORMATS: tuple[Format, ...] = (gguf_format, meta_format, hugging_face_format)
"""The first whose ``is_here`` agrees reads a checkpoint."""


def read_settings(checkpoint: Path) -> dict[str, object]:
    """Return the values of ``config.json``, or those that follow from another format's settings.

    Raises:
        ValueError: If there are none, or they are not as they must be.
    """
    return _format_of(checkpoint).read_settings(checkpoint)


def name_of(checkpoint: Path) -> str:
    """Return a checkpoint's name: that of its folder, or of its file without the ending."""
    return checkpoint.stem if gguf_format.is_here(checkpoint) else checkpoint.name


def read_revision(checkpoint: Path) -> str | None:
    """Return the commit on the hub that a checkpoint was fetched from; None if it was not."""
    note = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FETCHED
    return read_json(note)["commit"] if note.is_file() else None


def tensor_names(checkpoint: Path) -> list[str]:
    """Return the name of every tensor; of parts, only what lists them is read.

    Raises:
        ValueError: As ``read_tensors``.
    """
    return _format_of(checkpoint).tensor_names(checkpoint)


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return copies of the tensors whose names match, under the first group of the match.

    Only files that hold one of them are opened, and only their bytes are read.

    Raises:
        ValueError: If the folder holds no weights, or such a file is damaged or missing.
    """
    return _format_of(checkpoint).read_tensors(checkpoint, pattern)


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read.

    Raises:
        ValueError: As ``read_tensors``.
    """
    return _format_of(checkpoint).tensor_shapes(checkpoint)


def _format_of(checkpoint: Path) -> Format:
    for one in FORMATS:
        if one.is_here(checkpoint):
            return one
    if (checkpoint / hugging_face_format.ADAPTER).is_file():
        raise ValueError(hugging_face_format.adapter_refusal(checkpoint))
    raise ValueError(
        f"{checkpoint}: must be a .gguf file, or a folder in Hugging Face's or Meta's format, got "
        "no config.json or params.json. Run `snakemake fetch`, or change the path in the config."
    )
