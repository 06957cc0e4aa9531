"""Files that are damaged for a moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def refused(path: Path, said: str) -> Iterator[None]:
    """Inside, a file is damaged and read: that is one line which names it. Then it is as before.

    Args:
        path: The file.
        said: Pattern of what the line says.
    """
    before = path.read_bytes()
    try:
        with pytest.raises(ValueError, match=said) as caught:
            yield
    finally:
        path.write_bytes(before)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
