"""What the settings of every set of labelled items have, and how such a set is scored."""

from typing import Literal, no_type_check

from pydantic import PositiveInt, ValidationInfo, field_validator

from rectify.tasks.entry import Entry, Metric, decides

METRICS = (
    Metric("accuracy", "share, 0..1", "higher", "accuracy"),
    Metric("loss", "nats", "lower", "test loss"),
)


class Classified(Entry):
    """A set whose items have one class each."""

    classes: PositiveInt = decides("items", "weights", description="Checked when prepared.")
    fraction: float = decides(
        "items",
        "weights",
        default=1.0,
        gt=0,
        le=1,
        description="Share of the training items of each class that is kept.",
    )
    top_k: PositiveInt = decides("scores", default=1, description="k of the second accuracy.")

    @field_validator("top_k")
    @classmethod
    @no_type_check  # pydantic's protocol cannot be checked when tests run
    def _is_among_the_classes(cls, value: int, info: ValidationInfo) -> int:
        classes = info.data.get("classes", value)
        if value > classes:
            raise ValueError(f"top_k must not exceed the {classes} classes, got {value}. Lower it.")
        return value


class Labelled(Classified):
    """A set of images or clips."""

    image_size: int = decides(
        "items", "weights", ge=8, description="Height and width of the model's input in pixels."
    )
    channels: Literal[1, 3] = decides(
        "weights", default=3, description="Channels of an image as the model takes it."
    )
