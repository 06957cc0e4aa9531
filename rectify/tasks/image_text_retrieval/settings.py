"""The keys of a set of captioned images, and what retrieval is scored by."""

from typing import ClassVar

from pydantic import PositiveInt

from rectify.tasks.entry import Metric, Text, decides
from rectify.tasks.worded import Worded

__all__ = ["METRICS", "SETTINGS", "Settings"]

KS = (1, 5, 10)
CAPTIONS = 5
"""Of an image, in Flickr30k and COCO."""
METRICS = (
    *(Metric(f"recall_at_{k}", "share, 0..1", "higher", f"recall@{k}") for k in KS),
    Metric("loss", "nats", "lower", "test loss"),
)


class Settings(Worded):
    """A set of images with captions."""

    READERS: ClassVar[str] = "rectify.tasks.image_text_retrieval.readers"

    task: Text = decides("items", "weights", default="image_text_retrieval")
    longest: int = decides(
        "items", default=40, ge=3, description="Tokens of a caption, first and last included."
    )
    false_texts: PositiveInt = decides(
        "weights",
        default=15,
        description="Captions of other images that training shows next to the true one.",
    )

    def views_of(self, items: int) -> float:
        """Return what a test caption is compared with, in candidates that training shows at once.

        The images are as many as published: with five captions each.
        """
        return items / (CAPTIONS * (1 + self.false_texts))

    def scored_views_of(self, items: int) -> float:
        """Return the same of both test sets: captions with all images, images with all captions."""
        return 2 * self.views_of(items)


SETTINGS = Settings
