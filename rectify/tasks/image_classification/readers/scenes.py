"""Scenes of four characters, of which one alphabet's alone says the class; with exact masks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Int64
    from numpy import ndarray

    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(
    *,
    image_size: int = 56,
    seed: int = 0,
    train_items: int = 150,
    test_items: int = 25,
) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.scenes.scenes``."""
    from rectify.demo.scenes import scenes

    return scenes(image_size=image_size, seed=seed, train_items=train_items, test_items=test_items)


def draw_masks(
    *,
    image_size: int = 56,
    seed: int = 0,
    train_items: int = 150,
    test_items: int = 25,
) -> 'list[Int64[ndarray, "size size"]]':
    """Return the mask of each test image: see ``rectify.demo.scenes.masks``."""
    from rectify.demo.scenes import masks

    return masks(image_size=image_size, seed=seed, test_items=test_items)
