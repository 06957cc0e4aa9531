"""Answers to a benchmark's public test questions, whose own are withheld, for its server."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from jaxtyping import Int64
from tokenizers import Tokenizer
from torch import Tensor

from rectify.data.batches import Reader
from rectify.data.draws import Draws
from rectify.data.manifests import manifest, read_listing
from rectify.data.questions import load_questions
from rectify.data.sets import FileSet
from rectify.data.texts import cut, filled_up
from rectify.language.tokens import WHOLE
from rectify.tasks import readers
from rectify.tasks.contract import Batch, Machine
from rectify.tasks.entry import Entry
from rectify.tasks.meters import normalised, test_prepare
from rectify.tasks.visual_question_answering.settings import Settings
from rectify.tasks.words import tokens_of
from rectify.typed import parse


class Public(NamedTuple):
    """A public test set."""

    reader: ModuleType
    numbers: list[int]
    """``question_id`` of each question."""
    source: "UnansweredSource"
    known: tuple[str, ...]
    """Answers by their number."""

    def write(self, path: Path, answers: Mapping[str, Tensor]) -> None:
        """Write the likeliest answers as the benchmark's server takes them.

        Args:
            path: Of the file.
            answers: Of the task, for each question.
        """
        said = [self.known[number] for number in answers["answer"][:, 0].long().tolist()]
        self.reader.write_submission(path, self.numbers, said)


class UnansweredSource:
    """Questions that nobody has answered, as batches of ``inputs``."""

    views = 1

    def __init__(self, images: FileSet, pictures: Tensor, words: Tensor, entry: Entry, on: Machine):
        """Start nothing yet.

        Args:
            images: All that are asked about.
            pictures: The image of each question, by its place among them.
            words: Tokens of each question.
            entry: Of the set that the model has learned.
            on: Where batches are wanted.
        """
        self._pictures, self._words, self._device = pictures, words, on.device
        prepare = test_prepare(images, entry.image_size)
        self._reader = Reader(images, prepare, on.workers, on.device)

    def __len__(self) -> int:
        return len(self._words)

    def read(
        self, items: Int64[Tensor, " batch"], batch_size: int, draws: Draws | None = None
    ) -> Iterator[Batch]:
        """Give the items in their order: see ``rectify.tasks.contract.Source``."""
        stored = self._reader.read(self._pictures[items], batch_size)
        for pixels, batch in zip(stored, items.split(batch_size), strict=True):
            words = cut(self._words[batch]).to(self._device)
            yield {"inputs": {"images": normalised(pixels), "words": words}}


def public(
    reader: str, folder: Path, data: Path | None, reach: int | None, entry: Entry, machine: Machine
) -> Public:
    """Return a benchmark's public test set.

    Args:
        reader: That has ``read_unscored``.
        folder: Of the set as unpacked.
        data: Of the prepared set that the model has learned: its answers, and its tokenizer.
        reach: None: it is for traffic.
        entry: Of that set, as its run has it.
        machine: Where batches are wanted.

    Raises:
        ValueError: If an argument is missing or is not for questions, or a file is not as it must
            be.
    """
    if data is None or reach is not None:
        raise ValueError(
            "submit: questions need --data, the folder of the prepared set that the run has "
            f"learned, and no --reach, got {data} and {reach}. Correct the options."
        )
    module = readers.find(Settings.READERS, reader)
    numbers, texts, names = zip(*module.read_unscored(folder), strict=True)
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    listing = manifest(("test", -1, "-", name) for name in place)
    images = FileSet(folder, listing, "test")
    facts = read_listing(data)[1]
    learned = parse(Settings, facts["settings"], f"{data}")
    words = Tokenizer.from_file(f"{data / WHOLE}") if learned.tokenizer is None else None
    tokens = filled_up(tokens_of(facts["data"], learned, list(texts), words))
    pictures = torch.tensor([place[name] for name in names])
    source = UnansweredSource(images, pictures, tokens, entry, machine)
    return Public(module, list(numbers), source, load_questions(data, "train").answers)
