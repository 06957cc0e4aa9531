"""Test questions of a set and what models answer, for figures; read without torch.

What lies in a set's file is in ``rectify.data.questions``; answers are columns of
``predictions.parquet``.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageOps

from rectify.analysis.kept import read_kept
from rectify.data.arrays import opened
from rectify.data.images import read_image
from rectify.data.manifests import NOTES, read_listing

SPLIT = "test"
SIDE = 224  # pixels of a picture that is shown from a file
COLUMNS = ("answer", "vqa", "activations")


class Question(NamedTuple):
    """One question."""

    text: str
    truth: str
    """What people answered most."""
    picture: np.ndarray
    """Bytes, (height, width) or (height, width, 3): what a model sees, the middle square."""


class Questions:
    """The test questions of a set, in their order.

    Attributes:
        answers: All that may be given, by their number.
    """

    def __init__(self, folder: Path):
        """Read a set; pictures in files are read when asked for.

        Raises:
            ValueError: If a file is missing or damaged, or holds other things.
        """
        listing, facts = read_listing(folder)
        self._rows, self._files = listing[listing["split"] == SPLIT], facts.get("files")
        with opened(folder, SPLIT, "numpy") as file:
            self._pictures = file.get_tensor(f"{SPLIT}.pictures")
            if self._files is None:
                self._images = file.get_tensor(f"{SPLIT}.images")
            notes = json.loads(file.metadata()[NOTES])
        self._texts = notes["texts"][SPLIT]
        self.answers: list[str] = notes["answers"]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Question:
        row = self._rows.iloc[number]
        if self._files is None:
            picture = self._images[self._pictures[number], 0]
        else:
            image = read_image(Path(self._files) / row["source"])
            picture = np.asarray(ImageOps.fit(image, (SIDE, SIDE)))
        return Question(self._texts[number], row["name"], picture)


class Answered(NamedTuple):
    """What a model says of each test question."""

    answers: np.ndarray
    """Number of the likeliest answer (questions,)."""
    accuracies: np.ndarray
    """VQA accuracy of this answer, 0..1 (questions,)."""
    activations: np.ndarray
    """Of the image's tokens, 0..1 in each image (questions, rows, columns)."""


def read_answers(path: Path) -> Answered:
    """Return the answers of ``predictions.parquet``.

    Raises:
        ValueError: If it has none, or is damaged.
    """
    table = read_kept(path, COLUMNS)
    answers, activations = (np.stack(table[name].to_list()) for name in ("answer", "activations"))
    side = math.isqrt(activations.shape[1])  # images are squares
    maps = activations.reshape(-1, side, side)
    return Answered(answers[:, 0].astype(int), table["vqa"].to_numpy(), maps)
