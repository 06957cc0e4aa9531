"""Clouds of twelve solids: clean, on a floor, or cut and on a floor."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.clouds import CloudSet

EMBEDDED = IN_MEMORY = True
MASKED = ("bg", "hardest")


def read(
    *,
    points: int = 128,
    seed: int = 0,
    variant: str = "only",
    train_items: int = 100,
    test_items: int = 50,
) -> "dict[str, CloudSet]":
    """Return train and test: see ``rectify.demo.solids.solids``."""
    from rectify.demo.solids import solids

    return solids(
        points=points,
        seed=seed,
        variant=variant,
        train_items=train_items,
        test_items=test_items,
    )
