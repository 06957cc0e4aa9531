"""Which kind of emoji is this? Trained in colours, tested in lines."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED, IN_MEMORY = False, True


def read(folder: Path, *, image_size: int = 28, frequent: int = 8) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.emoji.emoji``."""
    from rectify.demo.emoji import emoji

    return emoji(folder, image_size=image_size, frequent=frequent)
