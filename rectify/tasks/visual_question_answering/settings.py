"""The keys of a set of questions about images, and what answers are scored by."""

from typing import ClassVar

from pydantic import PositiveInt

from rectify.tasks.entry import Metric, Text, decides
from rectify.tasks.worded import Worded

__all__ = ["METRICS", "SETTINGS", "Settings"]

METRICS = (
    Metric("vqa", "share, 0..1", "higher", "VQA accuracy"),
    Metric("question_alone", "share, 0..1", "higher", "question alone", is_floor=True),
    Metric("loss", "nats", "lower", "test loss"),
)


class Settings(Worded):
    """A set of questions about images."""

    READERS: ClassVar[str] = "rectify.tasks.visual_question_answering.readers"

    task: Text = decides("items", "weights", default="visual_question_answering")
    answers: PositiveInt = decides(
        "items", "weights", description="Answers that may be given. Checked when prepared."
    )


SETTINGS = Settings
