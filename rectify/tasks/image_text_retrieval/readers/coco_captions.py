"""Captions of COCO 2014 (Lin et al., ECCV 2014) with Karpathy's splits.

    dataset_coco.json             images: filepath, filename, split, sentences
    {train2014,val2014}/<filename>

As in METER, restval is trained on too.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_text_retrieval.karpathy import described

if TYPE_CHECKING:
    from rectify.data.captioned import Captioned

EMBEDDED, IN_MEMORY = False, False

SOURCE = "Karpathy's dataset_coco.json, and the images of COCO 2014"
COMPLETE: dict[tuple[str, ...], int] = {("train",): 566_747, ("test",): 25_010}
"""Captions."""


def read(folder: Path) -> "dict[str, Captioned]":
    """Return the captioned images of train and test.

    Args:
        folder: Holds the JSON file, ``train2014`` and ``val2014``.

    Raises:
        ValueError: If the file is missing, damaged or not of this format.
    """
    splits = {"train": ("train", "restval"), "test": ("test",)}
    return described(folder / "dataset_coco.json", None, splits, SOURCE)
