"""The arrays of a prepared set next to its manifest, opened: without torch unless asked for."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from rectify.data.manifests import ARRAYS


@contextlib.contextmanager
def opened(
    folder: Path, split: str, framework: Literal["pt", "numpy"] = "pt"
) -> Iterator[safe_open]:
    """Give the file of a set, whose tensors are called ``<split>.<name>``.

    What is not asked for is not read.

    Args:
        folder: Of the set.
        split: That is read from it, for messages.
        framework: Whose tensors it gives.

    Raises:
        ValueError: If the file is missing or damaged, or has no tensor that is asked for.
    """
    path = Path(folder) / ARRAYS
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"{path}: must be an intact safetensors file with split {split}, got "
            f"{str(error).splitlines()[0]}. Prepare the data set again."
        ) from None
