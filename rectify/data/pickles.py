"""Arrays and plain values out of pickle files, without running anything else that they hold."""

import hashlib
import io
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


def unpickled(path: Path, md5: str) -> dict:
    """Return the mapping in a pickle file.

    Args:
        path: The file.
        md5: Its published digest, checked before anything is unpickled.

    Raises:
        ValueError: If the file is another one, or holds more than arrays and plain values.
    """
    content = path.read_bytes()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise ValueError(f"{path}: MD5 must be {md5}, got {digest}. Download the file again.")
    try:
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: must hold arrays and plain values, got {error}. Don't use this file."
        ) from None
