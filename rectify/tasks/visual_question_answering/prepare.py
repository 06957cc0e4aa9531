"""Preparing a set of questions: read or drawn, checked, counted, its words made to tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame
from tokenizers import Tokenizer

from rectify.data.answers import vocabulary
from rectify.data.images import unreadable
from rectify.data.questions import Asked, QuestionSet, gathered, listing_of, save_questions
from rectify.language.tokens import WHOLE
from rectify.tasks import preparation, readers
from rectify.tasks.visual_question_answering.settings import Settings
from rectify.tasks.words import of_words, tokens_of


@dataclass(frozen=True)
class PreparedQuestions:
    """A checked set of questions."""

    listing: DataFrame
    sets: Mapping[str, QuestionSet]
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
        save_questions(folder, self.sets, self.listing, self.files, provenance)


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedQuestions:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a question or a count is not as it must be.
    """
    asked: Mapping[str, Asked] = entry.reader_module.read(**preparation.arguments(entry))
    may_be_given = vocabulary(
        question.most for split in asked.values() for question in split.questions
    )
    listing = listing_of(asked, may_be_given)
    preparation.report(name, listing)
    files = None if entry.reader_module.EMBEDDED else Path(entry.folder)
    if files is not None:
        pictures = [picture for split in asked.values() for picture in split.pictures]
        preparation.check_intact(files, unreadable(files, pictures, threads))
    if entry.full:
        readers.check_complete(name, entry.reader_module, listing)
    if len(may_be_given) != entry.answers:
        raise ValueError(
            f"{name}: must have {entry.answers} frequent answers, got {len(may_be_given)}. "
            f"Complete the files, or correct data.{name}.answers in the config."
        )
    texts = {split: [one.text for one in given.questions] for split, given in asked.items()}
    words = None if entry.tokenizer is not None else of_words(texts["train"])
    sets = {
        split: gathered(one, may_be_given, tokens_of(name, entry, texts[split], words))
        for split, one in asked.items()
    }
    return PreparedQuestions(listing, sets, files, words)
