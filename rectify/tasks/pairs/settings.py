"""The keys of a set of images or clouds with captions, on which models are only compared."""

from typing import ClassVar

from pydantic import PositiveInt

from rectify.tasks.entry import Entry, Text, decides

METRICS = ()


class Settings(Entry):
    """A set of pairs of image, or cloud, and caption."""

    READERS: ClassVar[str] = "rectify.tasks.pairs.readers"

    task: Text = decides("items", "weights", default="pairs")
    image_size: int | None = decides(
        "items", default=None, ge=8, description="Height and width in pixels of what is drawn."
    )
    points: PositiveInt | None = decides(
        "items", default=None, description="Points of a cloud that is drawn."
    )


SETTINGS = Settings
