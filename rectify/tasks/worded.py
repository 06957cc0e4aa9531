"""The keys that sets of images with texts share, for METER."""

from pydantic import PositiveInt

from rectify.tasks.entry import Entry, Text, decides


class Worded(Entry):
    """A set of images with texts."""

    image_size: int = decides(
        "items", "weights", ge=8, description="Height and width of the model's input in pixels."
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
        "items", default=50, ge=3, description="Tokens of a text, first and last included."
    )
