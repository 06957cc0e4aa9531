"""Texts next to images as tokens: by a model's tokenizer, or by the words themselves."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from rectify.data.texts import PADDING
from rectify.language.tokens import tokenized
from rectify.tasks.worded import Worded

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
"""The first tokens, numbered as RoBERTa's."""


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
