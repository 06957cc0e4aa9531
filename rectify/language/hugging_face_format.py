"""Checkpoints in Hugging Face's format: ``config.json`` and files of tensors by name.

Tensors are in ``model.safetensors`` or ``pytorch_model.bin``, or in parts of any name that an
index lists. Files are mapped into memory, so that only the bytes of tensors that are used are
read.
"""

import re
from pathlib import Path

import torch

from rectify.results.files import check_no_pointer, read_json
from rectify.tensors import Tensors, copied_tensor, mapped_tensors

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first of them that is there is read
ADAPTER = "adapter_config.json"  # of peft


def holds_weights(checkpoint: Path) -> bool:
    """Return whether a folder has weights in this format."""
    names = [name for file in WEIGHTS for name in (file, f"{file}.index.json")]
    return any((checkpoint / name).is_file() for name in names)


def is_here(checkpoint: Path) -> bool:
    """Return whether a folder is in this format, be it without weights or settings."""
    return (checkpoint / CONFIG).is_file() or holds_weights(checkpoint)


def read_settings(checkpoint: Path) -> dict[str, object]:
    """Return the values of ``config.json``.

    Raises:
        ValueError: If it is missing, or not a mapping.
    """
    path = checkpoint / CONFIG
    if not path.is_file():
        raise ValueError(
            f"{checkpoint}: must hold its settings beside its weights, got no {CONFIG}. Get the "
            "checkpoint again."
        )
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: must map names to values, got {settings!r:.40}. Get it again.")
    return settings


def tensor_names(checkpoint: Path) -> list[str]:
    """Return the name of every tensor; of parts the index alone is read."""
    return list(_files(checkpoint))


def read_tensors(checkpoint: Path, pattern: re.Pattern[str]) -> Tensors:
    """Return the tensors whose names match, as ``files.read_tensors``; only their files are opened.

    Raises:
        ValueError: If the folder holds no weights, or such a file is damaged or missing.
    """
    tensors: Tensors = {}
    for name, file in _files(checkpoint).items():
        if match := pattern.search(name):
            check_no_pointer(file)
            if (tensor := copied_tensor(file, name)) is not None:
                tensors[match[1]] = tensor
    return tensors


def tensor_shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """Return the shape of every tensor; no weights are read."""
    files = _files(checkpoint)
    for file in set(files.values()):
        check_no_pointer(file)
    mapped = {file: mapped_tensors(file) for file in files.values()}
    return {name: mapped[file][name].shape for name, file in files.items() if name in mapped[file]}


def weight_files(checkpoint: Path) -> list[Path]:
    """Return the files that hold a folder's tensors.

    Raises:
        ValueError: If there are no weights, or their index is damaged.
    """
    return sorted(set(_files(checkpoint).values()))


def adapter_refusal(checkpoint: Path) -> str:
    """Return the one line for what adds to a model, and is none."""
    return (
        f"{checkpoint}: must hold a model, got an adapter to one. Merge it into its model (peft's "
        "merge_and_unload), and save that."
    )


def _files(checkpoint: Path) -> dict[str, Path]:
    """Return the names of a checkpoint's tensors with their files.

    Raises:
        ValueError: If there are no weights, or their index is damaged.
    """
    for file in WEIGHTS:
        index, single = checkpoint / f"{file}.index.json", checkpoint / file
        if index.is_file():
            return _indexed(index)
        if single.is_file():
            check_no_pointer(single)
            return dict.fromkeys(mapped_tensors(single), single)
    if (checkpoint / ADAPTER).is_file():
        raise ValueError(adapter_refusal(checkpoint))
    others = sorted(p.name for p in checkpoint.glob("*") if p.suffix in (".safetensors", ".bin"))
    raise ValueError(
        f"{checkpoint}: must hold {' or '.join(WEIGHTS)}, or an index of their parts, got "
        f"{', '.join(others[:3]) or 'none'}. Get the checkpoint again."
    )


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
