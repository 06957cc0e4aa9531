"""Features in files that are compared: those that were computed here, or one's own."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rectify.similarity.features import as_tensor
from rectify.tensors import read_safetensors
from rectify.trunks.features import AGAIN, load_features


def any_features(
    path: Path, side: Literal["language", "vision"]
) -> tuple[Float[Tensor, "layers items dim"], dict[str, object]]:
    """Return features that were computed here, or one's own, and the facts about their model.

    One's own are a ``.npy`` file, or a safetensors file with a single tensor, of one layer
    ``(items, dim)`` or of several ``(layers, items, dim)``. Of these it is known which file they
    are, and not of which items.

    Args:
        path: The file.
        side: What they are compared as.

    Raises:
        ValueError: If the file is damaged, or holds something else.
    """
    if path.suffix == ".npy":
        values = as_tensor(_read_array(path), f"{path}")
    else:
        tensors, metadata = read_safetensors(path, AGAIN)
        if "facts" in metadata:
            return load_features(path)
        if len(tensors) != 1:
            raise ValueError(
                f"{path}: features of one's own must be a single tensor, got {len(tensors)}. "
                "Save one alone, as (items, dim) or (layers, items, dim)."
            )
        values = as_tensor(next(iter(tensors.values())), f"{path}")
    if values.dim() not in (2, 3):
        raise ValueError(
            f"{path}: features must have the shape (items, dim) or (layers, items, dim), got "
            f"{tuple(values.shape)}. Give one vector per item."
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    facts: dict[str, object] = {side: path.stem, f"{side}_sha256": digest, f"{side}_own": True}
    facts |= {"first_layer": 0} if side == "language" else {"seed": 0}
    return values if values.dim() == 3 else values[None], facts


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"{path}: must be an array of features, got {reason}. Save it with numpy.save."
        ) from None
