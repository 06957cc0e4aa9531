"""Which kind of character is this? A broad set, whose labels share words with the captions."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(
    *,
    image_size: int = 28,
    seed: int = 0,
    faces: int = 3,
    frequent: int = 20,
    test_share: float = 0.05,
) -> "dict[str, ImageSet]":
    """Return train and test: see ``rectify.demo.scripts.scripts``."""
    from rectify.demo.scripts import scripts

    return scripts(
        image_size=image_size, seed=seed, faces=faces, frequent=frequent, test_share=test_share
    )
