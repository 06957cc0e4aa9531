"""Flickr30k (Young et al., TACL 2014) with Karpathy's splits.

    dataset_flickr30k.json        images: filename, split, sentences
    flickr30k-images/<filename>

As in METER, val is trained on too.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_text_retrieval.karpathy import described

if TYPE_CHECKING:
    from rectify.data.captioned import Captioned

EMBEDDED, IN_MEMORY = False, False

SOURCE = "Karpathy's dataset_flickr30k.json, and the images of Flickr30k"
COMPLETE: dict[tuple[str, ...], int] = {("train",): 150_070, ("test",): 5_000}
"""Captions."""


def read(folder: Path) -> "dict[str, Captioned]":
    """Return the captioned images of train and test.

    Args:
        folder: Holds the JSON file, and ``flickr30k-images``.

    Raises:
        ValueError: If the file is missing, damaged or not of this format.
    """
    path, splits = folder / "dataset_flickr30k.json", {"train": ("train", "val"), "test": ("test",)}
    return described(path, Path("flickr30k-images"), splits, SOURCE)
