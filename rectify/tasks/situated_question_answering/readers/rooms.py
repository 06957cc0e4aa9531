"""Questions asked in drawn rooms."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rectify.data.situations import Told

EMBEDDED = IN_MEMORY = True


def read(
    *, seed: int = 0, train_rooms: int = 500, test_rooms: int = 150, stored: int = 640
) -> "dict[str, Told]":
    """Return train and test: see ``rectify.demo.rooms.rooms``."""
    from rectify.demo.rooms import rooms

    return rooms(seed=seed, train_rooms=train_rooms, test_rooms=test_rooms, stored=stored)
