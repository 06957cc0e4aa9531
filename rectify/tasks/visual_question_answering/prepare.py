"""Preparing a set of questions: read or drawn, checked, counted, its words made to tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pandas import DataFrame
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from rectify.data.answers import vocabulary
from rectify.data.images import unreadable
from rectify.data.questions import PADDING, Asked, QuestionSet, gathered, listing_of, save_questions
from rectify.language.tokens import WHOLE, tokenized
from rectify.tasks import preparation, readers
from rectify.tasks.visual_question_answering.settings import Settings

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first tokens, numbered as RoBERTa's."""


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
    words = None if entry.tokenizer is not None else _of_words(asked["train"])
    sets = {
        split: gathered(one, may_be_given, _tokens(name, entry, one, words))
        for split, one in asked.items()
    }
    return PreparedQuestions(listing, sets, files, words)


def _tokens(
    name: str, entry: Settings, asked: Asked, words: Tokenizer | None
) -> Sequence[Sequence[int]]:
    """Return the tokens of each question; a long one loses what comes before its last token."""
    texts = [question.text for question in asked.questions]
    if words is not None:
        made = [one.ids for one in words.encode_batch(texts)]
    else:
        made = tokenized(Path(entry.tokenizer), texts)
    largest = max(map(max, made))
    if largest >= entry.words:
        raise ValueError(
            f"{name}: numbers of tokens must be below words, {entry.words}, got {largest}. "
            f"Correct data.{name}.words or data.{name}.tokenizer in the config."
        )
    most = entry.longest
    return [one if len(one) <= most else [*one[: most - 1], one[-1]] for one in made]


def _of_words(asked: Asked) -> Tokenizer:
    """Return the tokenizer of the words and marks of the training questions, in lower case."""
    split, lower = Whitespace(), Lowercase()
    texts = (lower.normalize_str(question.text) for question in asked.questions)
    known = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    numbers = {token: number for number, token in enumerate((*SPECIAL, *known))}
    assert numbers["<pad>"] == PADDING
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, split
    ends = [(token, numbers[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer
