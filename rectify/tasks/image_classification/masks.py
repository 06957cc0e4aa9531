"""Masks of test images, in the format of ImageNet-S (Gao et al., 2022).

``validation-segmentation/<class>/<name of the image>.png``; a pixel's number is R + 256 G: 1 .. n
for the n classes that have a folder, in the order of their sorted names, 0 for anything else, and
1000 where nobody knows.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from rectify.data.images import read_image
from rectify.results.tables import read_note
from rectify.tasks.contract import Batch
from rectify.tasks.masked import LISTING, Masked

FOLDER = "validation-segmentation"
IGNORED = 1000
"""Number of a pixel of which nobody knows what it shows."""


def decoded(mask: UInt8[Tensor, "3 height width"]) -> Int64[Tensor, "height width"]:
    """Return the number of what each pixel of a stored mask shows."""
    red, green, _ = mask.long()
    return red + 256 * green


def encoded(numbers: Int64[Tensor, "height width"]) -> Image.Image:
    """Return numbers as a mask is stored."""
    channels = [numbers % 256, numbers // 256, torch.zeros_like(numbers)]
    return to_pil_image(torch.stack(channels).to(torch.uint8))


class Masks(Masked):
    """The masks of a prepared set's test images, read when asked for."""

    def __init__(
        self,
        folder: Path,
        prepare: Callable[[Image.Image], UInt8[Tensor, "3 height width"]] | None = None,
    ):
        """Read the listing.

        Args:
            folder: Of the prepared masks.
            prepare: From a stored mask to the size of the model; None if it has it.

        Raises:
            ValueError: If the listing is missing or damaged.
        """
        super().__init__(folder)
        files = Path(read_note(folder / LISTING)["provenance"]["facts"]["files"])
        self.paths = [files / source for source in self.listing["source"]]
        self.prepare = prepare or pil_to_tensor

    def read(
        self, images: Int64[Tensor, " some"], batch: Batch | None = None
    ) -> Int64[Tensor, "some height width"]:
        """Return the numbers in some masks, at the size of the model's input.

        Args:
            images: Places in the listing.
            batch: The images; the files say all that is needed.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        paths = [self.paths[image] for image in images.tolist()]
        return torch.stack([decoded(self.prepare(read_image(path))) for path in paths])
