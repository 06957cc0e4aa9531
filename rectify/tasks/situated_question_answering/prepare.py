"""Preparing a set of situated questions: read or drawn, checked, counted, words made to numbers."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32
from pandas import DataFrame
from torch import Tensor

from rectify.data.situations import (
    SituationSet,
    Told,
    gathered,
    listing_of,
    save_situations,
    spoken,
    worth,
)
from rectify.tasks import preparation, readers
from rectify.tasks.situated_question_answering.settings import Settings

log = logging.getLogger(__name__)

PAD, UNKNOWN = "<pad>", "unk"
"""What is in the place of no word; whose vector a word gets that has none."""
KEPT = ("train", "test")
"""Splits that models see; others only say which answers and words there are."""


@dataclass(frozen=True)
class PreparedSituations:
    """A checked set of situated questions."""

    listing: DataFrame
    sets: Mapping[str, SituationSet]
    """By split."""
    left_out: tuple[str, ...] = ()

    def write(self, folder: Path, provenance: dict) -> None:
        """Write the set; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        save_situations(folder, self.sets, self.listing, provenance)


def prepare(name: str, entry: Settings, shift: str | None, threads: int) -> PreparedSituations:
    """Read or draw a set; check and count it.

    Raises:
        ValueError: If a file, a question or a count is not as it must be.
    """
    told: Mapping[str, Told] = entry.reader_module.read(**preparation.arguments(entry))
    counts = Counter(one.answer for split in told.values() for one in split.situations)
    possible = sorted(counts)
    listing = listing_of({split: told[split] for split in KEPT}, possible)
    preparation.report(name, listing)
    if entry.full:
        readers.check_complete(name, entry.reader_module, listing)
    if len(possible) != entry.answers:
        raise ValueError(
            f"{name}: must have {entry.answers} different answers, got {len(possible)}. Complete "
            f"the files, or correct data.{name}.answers in the config."
        )
    words = (PAD, *sorted(_all_words(told.values())))
    if len(words) > entry.words:
        raise ValueError(
            f"{name}: words must have room for all {len(words)}, padding included, got "
            f"{entry.words}. Raise data.{name}.words in the config."
        )
    numbers = {word: number for number, word in enumerate(words)}
    vectors = torch.zeros(len(words), 0)
    if entry.vectors is not None:
        vectors = word_vectors(Path(entry.vectors), words)
    worths = {answer: worth(count) for answer, count in counts.items()}
    sets = {split: gathered(told[split], possible, worths, numbers, vectors) for split in KEPT}
    return PreparedSituations(listing, sets)


def _all_words(told: Iterable[Told]) -> set[str]:
    return {
        word
        for split in told
        for one in split.situations
        for text in (one.situation, one.question)
        for word in spoken(text)
    }


def word_vectors(path: Path, words: Sequence[str]) -> Float32[Tensor, "words dim"]:
    """Return the vectors of words as a file of GloVe has them, padding's being 0.

    A line is a word and its numbers, with spaces between. A word without a line gets the vector of
    ``unk``.

    Args:
        path: The file.
        words: By their number, padding first.

    Raises:
        ValueError: If the file is missing, ``unk`` has no line, or a line is damaged.
    """
    wanted, found = {*words, UNKNOWN}, {}
    try:
        with path.open(encoding="utf-8") as file:
            for place, line in enumerate(file, 1):
                word, *numbers = line.rstrip("\n").split(" ")
                if word in wanted:
                    found[word] = _vector(path, place, numbers)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: must be a text file of word vectors, got {type(error).__name__}. Get "
            "glove.6B.zip of nlp.stanford.edu/projects/glove and unpack it, or correct vectors."
        ) from None
    lengths = {len(vector) for vector in found.values()}
    if UNKNOWN not in found or len(lengths) != 1:
        got = "no line of it" if UNKNOWN not in found else f"{sorted(lengths)} numbers a line"
        raise ValueError(
            f"{path}: must have {UNKNOWN} and lines of one length, got {got}. Get the file again."
        )
    missing = [word for word in words[1:] if word not in found]
    log.info("%s: %d of %d words have no vector", path, len(missing), len(words) - 1)
    rows = [found.get(word, found[UNKNOWN]) for word in words[1:]]
    return torch.stack([torch.zeros_like(found[UNKNOWN]), *rows])


def _vector(path: Path, place: int, numbers: Sequence[str]) -> Float32[Tensor, " dim"]:
    try:
        vector = torch.tensor([float(one) for one in numbers])
    except ValueError:
        vector = torch.full((1,), torch.nan)
    if not len(vector) or not vector.isfinite().all():
        raise ValueError(
            f"{path}:{place}: a line must be a word and its numbers, got {numbers[:3]}. Get the "
            "file again."
        )
    return vector
