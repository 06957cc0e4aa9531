"""The keys of a set of questions about images, and what answers are scored by."""

from typing import ClassVar

from pydantic import PositiveInt

from rectify.tasks.entry import Entry, Metric, Text, decides

__all__ = ["METRICS", "SETTINGS", "Settings"]

METRICS = (
    Metric("vqa", "share, 0..1", "higher", "VQA accuracy"),
    Metric("question_alone", "share, 0..1", "higher", "question alone"),
    Metric("loss", "nats", "lower", "test loss"),
)


class Settings(Entry):
    """A set of questions about images."""

    READERS: ClassVar[str] = "rectify.tasks.visual_question_answering.readers"

    task: Text = decides("items", "weights", default="visual_question_answering")
    image_size: int = decides(
        "items", "weights", ge=8, description="Height and width of the model's input in pixels."
    )
    answers: PositiveInt = decides(
        "items", "weights", description="Answers that may be given. Checked when prepared."
    )
    tokenizer: Text | None = decides(
        "items",
        default=None,
        description="Folder with a tokenizer.json, as of RoBERTa; null: the words themselves.",
    )
    words: PositiveInt = decides(
        "items",
        "weights",
        default=50265,
        description="Tokens that the model knows; numbers of the tokenizer are below.",
    )
    longest: int = decides(
        "items", default=50, ge=3, description="Tokens of a question, first and last included."
    )


SETTINGS = Settings
