"""Checkpoints: settings and named tensors, read without building a model.

Hugging Face's format is ``config.json`` and one or many ``.safetensors`` or ``.bin`` files;
Meta's (see ``meta_format``), and GGUF (see ``gguf_format``), which is one file, are given under
the same settings and names. Files are mapped into memory, so that only the bytes of the tensors
that are used are read.
"""

import re
from pathlib import Path

import torch

from rectify.language import gguf_format, meta_format
from rectify.results.files import read_json
from rectify.tensors import Tensors, copied_tensor, mapped_tensors

FETCHED = "fetched.json"  # what `rectify fetch` leaves in a folder


def read_settings(checkpoint: Path) -> dict[str, object]:
    """Return the values of ``config.json``, or those that follow from Meta's ``params.json``.

    Raises:
        ValueError: If neither is there, or it is not as it must be.
    """
    if gguf_format.is_gguf(checkpoint):
        return gguf_format.read_settings(checkpoint)
    if (checkpoint / "config.json").is_file():
        return read_json(checkpoint / "config.json")
    if (checkpoint / meta_format.PARAMS).is_file():
        return meta_format.read_settings(checkpoint)
    raise ValueError(
        f"{checkpoint}: must be a .gguf file, or a folder in Hugging Face's or Meta's format, got "
        "no config.json or params.json. Run `snakemake fetch`, or change the path in the config."
    )


def name_of(checkpoint: Path) -> str:
    """Return a checkpoint's name: that of its folder, or of its file without the ending."""
    return checkpoint.stem if gguf_format.is_gguf(checkpoint) else checkpoint.name


def read_revision(checkpoint: Path) -> str | None:
    """Return the commit on the hub that a checkpoint was fetched from; None if it was not."""
    note = (checkpoint if checkpoint.is_dir() else checkpoint.parent) / FETCHED
    return read_json(note)["commit"] if note.is_file() else None


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return copies of the tensors whose names match, under the first group of the match.

    Only files that hold one of them are opened, and only their bytes are read.

    Raises:
        ValueError: If the folder holds no weights, or such a file is damaged or missing.
    """
    if gguf_format.is_gguf(checkpoint):
        return gguf_format.read_tensors(checkpoint, pattern)
    files = _files(checkpoint)
    if files is None:
        return meta_format.read_tensors(checkpoint, pattern)
    tensors: Tensors = {}
    for name, file in files.items():
        match = pattern.search(name)
        if match and (tensor := copied_tensor(file, name)) is not None:
            tensors[match[1]] = tensor
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read.

    Raises:
        ValueError: As ``read_tensors``.
    """
    if gguf_format.is_gguf(checkpoint):
        return gguf_format.tensor_shapes(checkpoint)
    files = _files(checkpoint)
    if files is None:
        return meta_format.tensor_shapes(checkpoint)
    mapped = {file: mapped_tensors(file) for file in files.values()}
    return {name: mapped[file][name].shape for name, file in files.items() if name in mapped[file]}


def _files(checkpoint: Path) -> dict[str, Path] | None:
    """Return the names of a checkpoint's tensors with their files; None in Meta's format.

    Raises:
        ValueError: If there are no weights in either format, or their index is damaged.
    """
    for file in ("model.safetensors", "pytorch_model.bin"):
        index, single = checkpoint / f"{file}.index.json", checkpoint / file
        if index.is_file():
            return _indexed(index)
        if single.is_file():
            return dict.fromkeys(mapped_tensors(single), single)
    if not meta_format.slice_files(checkpoint):
        raise ValueError(
            f"{checkpoint}: must hold model.safetensors or pytorch_model.bin, their index, or "
            "consolidated.00.pth, got none. Get the checkpoint again."
        )
    return None


def _indexed(index: Path) -> dict[str, Path]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(f"{index}: must have a weight_map, got none. Get the checkpoint again.")
    for file in files.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise ValueError(
                f"{index}: its parts must be next to it, got {file!r}. Get the checkpoint again."
            )
    return {name: index.parent / file for name, file in files.items()}
