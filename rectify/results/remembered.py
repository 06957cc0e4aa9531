"""What takes long to find out is asked once, and kept in the user's cache.

To import torch and timm takes longer than all the rest of a plan, and so does reading every
module's syntax tree. So answers are kept in ``$XDG_CACHE_HOME/rectify``, under a digest of
everything that decides them.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rectify.results.files import atomic_path


def remembered(kind: str, key: Iterable[str]) -> str | None:
    """Return the answer that is kept; None if there is none.

    Args:
        kind: Folder of the cache.
        key: Everything that decides the answer.
    """
    file = _file(kind, key)
    return file.read_text(encoding="utf-8") if file.is_file() else None


def answer(kind: str, key: Iterable[str], ask: Callable[[], str]) -> str:
    """Return the answer that is kept, or ask for it and keep it; arguments as in `remembered`."""
    words = tuple(key)
    kept = remembered(kind, words)
    if kept is not None:
        return kept
    said = ask()
    with contextlib.suppress(OSError), atomic_path(_file(kind, words)) as temporary:
        temporary.write_text(said, encoding="utf-8")  # it is only a cache
    return said


def _file(kind: str, key: Iterable[str]) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:24]
    return Path(cache) / "rectify" / kind / digest
