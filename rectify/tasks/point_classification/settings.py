"""The keys of a set of labelled point clouds."""

from typing import ClassVar, Literal

from pydantic import PositiveInt

from rectify.tasks import readers
from rectify.tasks.entry import Text, decides
from rectify.tasks.labelled import METRICS, Classified

__all__ = ["METRICS", "SETTINGS", "Settings"]


class Settings(Classified):
    """A set of labelled point clouds."""

    READERS: ClassVar[str] = "rectify.tasks.point_classification.readers"

    task: Text = decides("items", "weights", default="point_classification")
    points: PositiveInt = decides(
        "items", "weights", description="Points of a cloud that the model takes."
    )
    normalise: Literal["none", "unit"] = decides(
        "weights",
        default="none",
        description="`unit`: all stored points of a cloud are centred at their mean and scaled "
        "into the unit ball before any are chosen.",
    )
    fps_skip_origin: bool = decides(
        "weights",
        default=False,
        description="Whether farthest point sampling passes over points next to the origin, as "
        "the CUDA kernel of the published codes does.",
    )
    votes: PositiveInt = decides(
        "scores",
        default=1,
        description="At test: choices of points, each scaled and shifted, whose logits are "
        "averaged; 1 is a single choice by farthest point sampling as it is.",
    )

    def scored_views_of(self, items: int) -> float:
        """Return the votes."""
        return float(self.votes)

    @property
    def has_masks(self) -> bool:
        reader = self.reader_module
        if not hasattr(reader, "MASKED"):
            return False
        return self.sizes.get("variant", readers.default(reader, "variant")) in reader.MASKED


SETTINGS = Settings
