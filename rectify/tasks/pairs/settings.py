"""The keys of a set of image-caption pairs: nothing is trained on it, models are compared on it."""

from typing import ClassVar

from rectify.tasks.entry import Entry, Text, decides

METRICS = ()


class Settings(Entry):
    """A set of image-caption pairs."""

    READERS: ClassVar[str] = "rectify.tasks.pairs.readers"

    task: Text = decides("items", "weights", default="pairs")
    image_size: int | None = decides(
        "items", default=None, ge=8, description="Height and width in pixels of what is drawn."
    )


SETTINGS = Settings
