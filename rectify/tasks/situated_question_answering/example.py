"""Rooms and texts of some size, to count and time a model without any set."""

import torch

from rectify.tasks.contract import Batch
from rectify.tasks.situated_question_answering.rooms import FEATURES
from rectify.trunks.sqa3d import POSE

BOXES = 16
"""Objects of a room; nothing that takes long depends on them."""
WORDS = 16
"""Of each text: fewer than the longest of most batches have."""


def example(batch_size: int, points: int, vectors: int | None, device: torch.device | str) -> Batch:
    """Return questions in rooms as a training batch has them, with random places.

    Args:
        batch_size: Questions.
        points: Of a room.
        vectors: Length of the vectors that words are; None where they are numbers.
        device: Where they are wanted; ``meta`` for shapes alone.
    """

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(batch_size, *shape, device=device)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.ones(batch_size, *shape, dtype=torch.int64, device=device)

    def text() -> torch.Tensor:
        return numbers(WORDS) if vectors is None else random(WORDS, vectors)

    return {
        "inputs": {
            "points": random(points, 3),
            "features": random(points, FEATURES),
            "situation": text(),
            "question": text(),
        },
        "ways": random(points, 3),
        "has_way": numbers(points).float(),
        "centres": random(BOXES, 3),
        "relative_sizes": random(BOXES, 3),
        "kinds": numbers(BOXES),
        "has_box": numbers(BOXES).float(),
        "pose": random(POSE),
        "answers": numbers(),
        "worths": random(),
    }
