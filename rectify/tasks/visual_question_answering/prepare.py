"""Preparing a set of questions: read or drawn, checked, counted, its words made to tokens."""

from collections.abc import Mapping

from rectify.data.answers import vocabulary
from rectify.data.questions import Asked, gathered, listing_of, save_questions
from rectify.tasks import preparation
from rectify.tasks.visual_question_answering.settings import Settings
from rectify.tasks.words import PreparedTexts, checked, of_words, tokens_of


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedTexts:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a question or a count is not as it must be.
    """
    asked: Mapping[str, Asked] = entry.reader_module.read(**preparation.arguments(entry))
    may_be_given = vocabulary(
        question.most for split in asked.values() for question in split.questions
    )
    listing = listing_of(asked, may_be_given)
    pictures = (picture for split in asked.values() for picture in split.pictures)
    files = checked(name, entry, listing, pictures, threads)
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
    return PreparedTexts(listing, sets, files, words, save_questions)
