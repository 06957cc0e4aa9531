"""The keys of a set of questions asked from a place in a room, and what answers are scored by."""

from typing import ClassVar, Literal

from pydantic import PositiveInt

from rectify.tasks.entry import Entry, Metric, Place, Text, decides

__all__ = ["METRICS", "SETTINGS", "Settings"]

METRICS = (
    Metric("em", "share, 0..1", "higher", "exact match"),
    Metric("one_answer", "share, 0..1", "higher", "one answer", is_floor=True),
    Metric("by_type", "share, 0..1", "higher", "one answer per type", is_floor=True),
    Metric("question_alone", "share, 0..1", "higher", "question alone", is_floor=True),
    Metric("loss", "nats", "lower", "test loss"),
)


class Settings(Entry):
    """A set of questions asked from a place in a room."""

    READERS: ClassVar[str] = "rectify.tasks.situated_question_answering.readers"

    task: Text = decides("items", "weights", default="situated_question_answering")
    answers: PositiveInt = decides(
        "items", "weights", description="Answers that may be given. Checked when prepared."
    )
    words: PositiveInt = decides(
        "items",
        "weights",
        description="Most words of all texts that the model has room for, padding included.",
    )
    vectors: Place | None = decides(
        "items",
        "weights",
        default=None,
        description="Text file of word vectors, as glove.6B.300d.txt; null: they are learned.",
    )
    points: PositiveInt = decides(
        "weights", default=40_000, description="Points of a room that the model sees."
    )
    erased_colours: bool = decides(
        "weights",
        default=False,
        description="Whether colours are scaled twice, and so all but lost, as the public code "
        "has them from the second visit to a room on.",
    )
    flips: Literal["published", "off"] = decides(
        "weights",
        default="published",
        description="`published`: half of the training rooms are mirrored along x, and half along "
        "y, though questions say left and right.",
    )
    turn: float = decides(
        "weights",
        default=5.0,
        ge=0,
        le=45,
        description="Degrees by which a training room is turned at most about each axis, either "
        "way. How far it is moved is training.cloud_shift.",
    )
    detection: bool = decides(
        "weights", default=True, description="Whether the losses of votes, objects and boxes count."
    )
    pose: bool = decides(
        "weights",
        default=True,
        description="Whether the model learns the pose too: SQA3D with, ScanQA without.",
    )
    top_k: PositiveInt = decides("scores", default=10, description="k of the second exact match.")


SETTINGS = Settings
