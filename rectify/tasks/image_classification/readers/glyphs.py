"""Glyphs-100: one hundred characters, in faces that training never saw; with shifted test sets."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.sets import ImageSet

EMBEDDED = IN_MEMORY = True


def read(
    *,
    image_size: int = 28,
    seed: int = 0,
    train_drawings: int = 2,
    test_drawings: int = 2,
    shifted_faces: int = 2,
    corrupted: int = 100,
) -> "dict[str, ImageSet]":
    """Return train, test and shifted test sets: see ``rectify.demo.glyphs.glyphs``."""
    from rectify.demo.glyphs import glyphs

    return glyphs(
        image_size=image_size,
        seed=seed,
        train_drawings=train_drawings,
        test_drawings=test_drawings,
        shifted_faces=shifted_faces,
        corrupted=corrupted,
    )
