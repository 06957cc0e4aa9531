"""Ten letters as solids, in the test in faces that training never saw."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.clouds import CloudSet

EMBEDDED = IN_MEMORY = True


def read(
    *, points: int = 128, seed: int = 0, train_items: int = 120, test_items: int = 40
) -> "dict[str, CloudSet]":
    """Return train and test: see ``rectify.demo.glyph_solids.glyph_solids``."""
    from rectify.demo.glyph_solids import glyph_solids

    return glyph_solids(points=points, seed=seed, train_items=train_items, test_items=test_items)
