"""The small scanned digits that come with scikit-learn."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(*, image_size: int = 28, seed: int = 0, train_share: float = 0.7) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.glyphs.digits``."""
    from rectify.demo.glyphs import digits

    return digits(image_size=image_size, seed=seed, train_share=train_share)
