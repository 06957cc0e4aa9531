"""Six letters whose face and background go with the letter in training only, as in BAR."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(
    *,
    image_size: int = 28,
    seed: int = 0,
    train_items: int = 160,
    test_items: int = 50,
    aligned: float = 0.95,
) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.glyphs.biased``."""
    from rectify.demo.glyphs import biased

    return biased(
        image_size=image_size,
        seed=seed,
        train_items=train_items,
        test_items=test_items,
        aligned=aligned,
    )
