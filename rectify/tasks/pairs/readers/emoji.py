"""Emoji in colour with their Unicode names."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED, IN_MEMORY = False, True


def read(
    folder: Path, *, image_size: int = 28, seed: int = 0, items: int = 1024
) -> "dict[str, ImageSet]":
    """Return the pairs: see ``rectify.demo.emoji.emoji_pairs``."""
    from rectify.demo.emoji import emoji_pairs

    return emoji_pairs(folder, image_size=image_size, seed=seed, items=items)
