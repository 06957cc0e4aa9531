"""Clips of a moving character: the label is the motion, never visible in a single frame."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(
    *,
    image_size: int = 28,
    seed: int = 0,
    frames: int = 8,
    train_items: int = 120,
    test_items: int = 24,
) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.motions.motions``."""
    from rectify.demo.motions import motions

    return motions(
        image_size=image_size,
        seed=seed,
        frames=frames,
        train_items=train_items,
        test_items=test_items,
    )
