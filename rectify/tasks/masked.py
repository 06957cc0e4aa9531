"""Which test items of a prepared set have a mask of their object: a table `MASKS` in a folder."""

from pathlib import Path

import torch

from rectify.results.declared import MASKS
from rectify.results.tables import read_table

LISTING = "masks.csv"


class Masked:
    """The listed test items.

    Attributes:
        items: Place of each in the test set.
        objects: Number of each one's own object in its mask.
    """

    def __init__(self, folder: Path):
        """Read the listing.

        Args:
            folder: Of the prepared masks.

        Raises:
            ValueError: If the listing is missing or damaged.
        """
        self.listing = read_table(MASKS, folder / LISTING)
        self.items = torch.tensor(self.listing["item"].to_numpy())
        self.objects = torch.tensor(self.listing["number"].to_numpy())
