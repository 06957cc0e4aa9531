"""Characters as solids with their Unicode names."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.clouds import CloudSet

EMBEDDED = IN_MEMORY = CLOUDS = True


def read(*, points: int = 128, seed: int = 0, items: int = 1024) -> "dict[str, CloudSet]":
    """Return the pairs: see ``rectify.demo.glyph_solids.glyph_solid_pairs``."""
    from rectify.demo.glyph_solids import glyph_solid_pairs

    return glyph_solid_pairs(points=points, seed=seed, items=items)
