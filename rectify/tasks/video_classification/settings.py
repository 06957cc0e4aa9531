"""The keys of a set of labelled clips."""

from typing import ClassVar, Literal

from pydantic import PositiveInt, model_validator

from rectify.tasks.entry import Text, decides
from rectify.tasks.labelled import METRICS, Labelled
from rectify.typed import Closed

__all__ = ["METRICS", "SETTINGS", "Settings"]


class Views(Closed, strict=True):
    """How a clip is seen at test time: the shares of all views are averaged."""

    time: Literal[1, 2] = 1
    """1: the middles of the segments; 2: their starts and their middles."""
    space: PositiveInt = 1
    """Crops along the long side."""


class Settings(Labelled):
    """A set of labelled clips."""

    READERS: ClassVar[str] = "rectify.tasks.video_classification.readers"

    task: Text = decides("items", "weights", default="video_classification")
    frames: int = decides("items", "weights", ge=2, description="Frames that the model takes.")
    undecodable: int = decides(
        "items", default=0, ge=0, description="Clips that can't be decoded and are left out."
    )
    views: Views = decides(
        "scores", default=Views(), description="At test time; while training always one."
    )

    @model_validator(mode="after")
    def _has_what_only_files_have(self) -> "Settings":
        in_memory = self.reader is not None and self.in_memory
        if in_memory and (self.undecodable or self.views != Views()):
            raise ValueError(
                f"clips in memory must have no undecodable and no views, got {self.undecodable} "
                f"and {self.views.time} x {self.views.space}. Take the key away."
            )
        return self

    def scored_views_of(self, items: int) -> float:
        """Return the views of a clip, in time and in space."""
        return float(self.views.time * self.views.space)


SETTINGS = Settings
