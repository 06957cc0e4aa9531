"""Preparing texts about images: how a set of them is checked and written, and its tokens.

Tokens are those of a model's tokenizer, or the words themselves.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pandas import DataFrame
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from rectify.data.images import unreadable
from rectify.data.texts import PADDING
from rectify.language.tokens import WHOLE, tokenized
from rectify.tasks import preparation, readers
from rectify.tasks.worded import Worded

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first tokens, numbered as RoBERTa's."""


@dataclass(frozen=True)
class PreparedTexts:
    """A checked set of texts about images."""

    listing: DataFrame
    sets: Mapping[str, Any]
    """By split."""
    files: Path | None
    """Folder of the images, where they stay in their files."""
    words: Tokenizer | None
    """Of the words themselves, where no other is asked for."""
    save: Callable[[Path, Mapping[str, Any], DataFrame, Path | None, dict], None]
    """Writes folder, sets, listing, files and provenance."""
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.words is not None:
            self.words.save(f"{folder / WHOLE}")
        self.save(folder, self.sets, self.listing, self.files, provenance)


def checked(
    name: str, entry: Worded, listing: DataFrame, pictures: Iterable[str], threads: int
) -> Path | None:
    """Report and check a set; return the folder of its images, where they stay in their files.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        listing: Its manifest.
        pictures: All images, by their paths in that folder.
        threads: That look at them.

    Raises:
        ValueError: If an image cannot be read, or the set is not as it was published.
    """
    preparation.report(name, listing)
    files = None if entry.reader_module.EMBEDDED else Path(entry.folder)
    if files is not None:
        preparation.check_intact(files, unreadable(files, [*pictures], threads))
    if entry.full:
        readers.check_complete(name, entry.reader_module, listing)
    return files


def tokens_of(
    name: str, entry: Worded, texts: Sequence[str], words: Tokenizer | None
) -> Sequence[Sequence[int]]:
    """Return the tokens of each text; a long one loses what comes before its last token.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        texts: In their order.
        words: Of the words themselves, where no tokenizer is named.

    Raises:
        ValueError: If the tokenizer cannot be read, or the model does not know a number.
    """
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


def of_words(texts: Iterable[str]) -> Tokenizer:
    """Return the tokenizer of the words and marks of some texts, in lower case."""
    split, lower = Whitespace(), Lowercase()
    lowered = (lower.normalize_str(text) for text in texts)
    known = sorted({word for text in lowered for word, _ in split.pre_tokenize_str(text)})
    numbers = {token: number for number, token in enumerate((*SPECIAL, *known))}
    assert numbers["<pad>"] == PADDING
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, split
    ends = [(token, numbers[token]) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return tokenizer
