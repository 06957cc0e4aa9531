"""Preparing a set of captioned images: read or drawn, checked, counted, words made to tokens."""

from collections.abc import Mapping

from rectify.data.captioned import Captioned, gathered, listing_of, save_captions
from rectify.tasks import preparation
from rectify.tasks.image_text_retrieval.settings import Settings
from rectify.tasks.words import PreparedTexts, checked, of_words, tokens_of


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedTexts:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a caption or a count is not as it must be.
    """
    described: Mapping[str, Captioned] = entry.reader_module.read(**preparation.arguments(entry))
    for split, one in described.items():
        if len(one.pictures) < 2:
            raise ValueError(
                f"{name}: {split} must have two images at least, since they are told apart, got "
                f"{len(one.pictures)}. Complete the files."
            )
    listing = listing_of(described)
    pictures = (picture for split in described.values() for picture in split.pictures)
    files = checked(name, entry, listing, pictures, threads)
    words = None if entry.tokenizer is not None else of_words(described["train"].texts)
    sets = {
        split: gathered(one, tokens_of(name, entry, one.texts, words))
        for split, one in described.items()
    }
    return PreparedTexts(listing, sets, files, words, save_captions)
