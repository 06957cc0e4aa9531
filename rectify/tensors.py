"""Files of named tensors, read with one-line errors, and the check that they are the right ones.

Files are mapped into memory: only the bytes of tensors that are used are read, and what is
mapped stays open as long as one of its tensors lives. Pickles are opened with ``weights_only``:
they cannot run code.
"""

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Tensors = dict[str, Tensor]
UNREADABLE = (SafetensorError, OSError, RuntimeError, EOFError)  # what libraries raise for a file
PICKLED = (".bin", ".pth")
SAVE_ALONE = "Save its tensors alone, or get another file."
WRAPPERS = ("state_dict", "module", "model")  # under which training scripts put the tensors
OLD_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)  # of torch before 1.6


def read_safetensors(
    path: Path, advice: str = "Get the file again."
) -> tuple[Tensors, dict[str, str]]:
    """Return the tensors of a safetensors file, mapped into memory, and its metadata.

    Args:
        path: The file.
        advice: What the user should do about a file that cannot be read.

    Raises:
        ValueError: If the file is missing, cut short or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensors(), file.metadata() or {}
    except UNREADABLE as error:
        raise ValueError(_refusal(path, error, advice)) from None


def mapped_tensors(path: Path) -> Tensors:
    """Return the tensors of a checkpoint's file, mapped into memory.

    Tensors that a training script put under one name, next to its own notes, are taken out.

    Args:
        path: A pickle of ``torch.save`` if it ends in ``.bin`` or ``.pth``, else safetensors.

    Raises:
        ValueError: If the file is missing, cut short, of another format or holds other things.
    """
    if path.suffix not in PICKLED:
        return read_safetensors(path)[0]
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(_refusal(path, f"one of type {type(content).__name__}", SAVE_ALONE))
    inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), dict)]
    content = inner[0] if len(inner) == 1 else content
    other = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if other:
        got = f"{other[0]}, of type {type(content[other[0]]).__name__}"
        raise ValueError(_refusal(path, got, SAVE_ALONE))
    return content


def copied_tensor(path: Path, name: str) -> Tensor | None:
    """Return a copy of one tensor of a checkpoint's file; None if it has none of that name.

    The file is mapped for this tensor alone: what is mapped counts as memory until it is closed.

    Raises:
        ValueError: As ``mapped_tensors``.
    """
    tensor = mapped_tensors(path).get(name)
    return None if tensor is None else tensor.clone()


def load_pickle(path: Path, ignored: Iterable[str] = ()) -> object:
    """Return what a file of ``torch.save`` holds, its tensors mapped into memory.

    Args:
        path: The file.
        ignored: Full names of classes and functions that may be next to the tensors. None of
            them is imported or called; what they would make is left out.

    Raises:
        ValueError: If the file is missing, cut short, of another format or holds other objects.
    """
    try:
        _check_zip(path)
        with torch.serialization.safe_globals([(_Ignored, name) for name in ignored]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        first = re.search(r"GLOBAL ([\w.]+)", str(error))
        got = f"other objects too{f', first {first[1]}' if first else ''}"
        raise ValueError(_refusal(path, got, SAVE_ALONE)) from None
    except UNREADABLE as error:
        raise ValueError(_refusal(path, error)) from None


def check_same_tensors(
    expected: Mapping[str, Tensor], got: Mapping[str, Tensor], where: Path | str, advice: str
) -> None:
    """Check that ``got`` has the tensors of ``expected``, each of its shape, and no others.

    Args:
        expected: Tensors by name; only their shapes count, so they may be on ``meta``.
        got: Tensors by name.
        where: What holds ``got``, e.g. a file; the error begins with it.
        advice: What the user should do; the error ends with it.

    Raises:
        ValueError: One line with the first name that is missing, unexpected or misshaped.
    """
    wrong = [
        name
        for name in sorted(expected.keys() | got.keys())
        if _shape(expected, name) != _shape(got, name)
    ]
    if wrong:
        others = f" ({len(wrong)} tensors differ)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{where}: tensor {wrong[0]} must be {_shape(expected, wrong[0])}, "
            f"got {_shape(got, wrong[0])}{others}. {advice}"
        )


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | str:
    return tuple(tensors[name].shape) if name in tensors else "absent"


class _Ignored:
    """Takes the place of an object that is not used, whatever it is made of."""

    def __init__(self, *content: object):
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _check_zip(path: Path) -> None:
    """Check that a file is a zip file to its end, as torch's are since 1.6."""
    if zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        start = file.read(len(OLD_START))
    if start == OLD_START:
        advice = "Load and save it again with a recent torch."
        raise ValueError(_refusal(path, "torch's old format", advice))
    is_other = not b"PK".startswith(start[:2])
    raise ValueError(_refusal(path, "another format" if is_other else "a file cut short"))


def _refusal(path: Path, got: Exception | str, advice: str = "Get the file again.") -> str:
    """Return the one line for a file that cannot be read."""
    reason = str(got).strip().partition("\n")[0].rstrip(".") or "a file cut short"
    return f"{path}: must be an intact file of tensors, got {reason}. {advice}"
