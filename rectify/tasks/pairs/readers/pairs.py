"""Characters with their Unicode names."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(*, image_size: int = 28, seed: int = 0, items: int = 1024) -> "dict[str, ImageSet]":
    """Return the pairs: see ``rectify.demo.pairs.pairs``."""
    from rectify.demo.pairs import pairs

    return pairs(image_size=image_size, seed=seed, items=items)
