"""Preparing a set of captioned images: read or drawn, checked, counted, words made to tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame
from tokenizers import Tokenizer

from rectify.data.captioned import Captioned, CaptionSet, gathered, listing_of, save_captions
from rectify.data.images import unreadable
from rectify.language.tokens import WHOLE
from rectify.tasks import preparation, readers
from rectify.tasks.image_text_retrieval.settings import Settings
from rectify.tasks.words import of_words, tokens_of


@dataclass(frozen=True)
class PreparedCaptions:
    """A checked set of captioned images."""

    listing: DataFrame
    sets: Mapping[str, CaptionSet]
    """By split."""
    files: Path | None
    """Folder of the images, where they stay in their files."""
    words: Tokenizer | None
    """Of the words themselves, where no other is asked for."""
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.words is not None:
            self.words.save(f"{folder / WHOLE}")
        save_captions(folder, self.sets, self.listing, self.files, provenance)


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedCaptions:
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
    preparation.report(name, listing)
    files = None if entry.reader_module.EMBEDDED else Path(entry.folder)
    if files is not None:
        pictures = [picture for split in described.values() for picture in split.pictures]
        preparation.check_intact(files, unreadable(files, pictures, threads))
    if entry.full:
        readers.check_complete(name, entry.reader_module, listing)
    words = None if entry.tokenizer is not None else of_words(described["train"].texts)
    sets = {
        split: gathered(one, tokens_of(name, entry, one.texts, words))
        for split, one in described.items()
    }
    return PreparedCaptions(listing, sets, files, words)
