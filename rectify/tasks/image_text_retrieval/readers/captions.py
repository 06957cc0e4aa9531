"""Drawn signs with five captions each."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.captioned import Captioned

EMBEDDED = IN_MEMORY = True


def read(
    *, image_size: int = 56, seed: int = 0, train_items: int = 192, test_items: int = 32
) -> "dict[str, Captioned]":
    """Return train and test: see ``rectify.demo.captions.captions``."""
    from rectify.demo.captions import captions

    return captions(
        image_size=image_size, seed=seed, train_items=train_items, test_items=test_items
    )
