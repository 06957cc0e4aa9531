"""Arrays and plain values out of pickle files, without running anything else that they hold."""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy._core.multiarray import _reconstruct


class _Restricted(pickle.Unpickler):
    """Builds arrays and plain values, and refuses everything else without running it."""

    ALLOWED: Mapping[tuple[str, str], Callable] = {
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        # files of 2009 hold numbers where NumPy wants to see bool
        ("numpy", "dtype"): lambda kind, align, copy: np.dtype(kind, bool(align), bool(copy)),
        ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
    }

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self.ALLOWED[module, name]


DAMAGED = (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError,
           ValueError)  # fmt: skip
"""What the unpickler raises for a file that was cut short, or is none."""


def unpickled(path: Path, md5: str | None = None) -> object:
    """Return what a pickle file holds.

    Args:
        path: The file.
        md5: Its published digest, checked before anything is unpickled; None where there is none.

    Raises:
        ValueError: If the file is another one or damaged, or holds more than arrays and plain
            values.
    """
    with path.open("rb") as file:
        if md5 is not None:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            if digest.hexdigest() != md5:
                raise ValueError(
                    f"{path}: MD5 must be {md5}, got {digest.hexdigest()}. Download the file again."
                )
            file.seek(0)
        try:
            return _Restricted(file, encoding="latin1").load()
        except DAMAGED as error:
            raise ValueError(
                f"{path}: must hold arrays and plain values, got {error}. Don't use this file."
            ) from None
