"""Questions about images: what was asked, what ten people said, and which image is meant.

A prepared set is a folder as one of images (``rectify.data.sets``): ``manifest.csv`` lists every
question with the most frequent answer and the image; ``arrays.safetensors`` holds the tokens of the
questions and, of each answer that somebody gave and that a model may give, what it is worth. Drawn
images are there, too; others stay in their files. Notes have the answers and, by split, the texts
of the questions, in their order.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float32, Int32, Int64, UInt8
from pandas import DataFrame
from torch import Tensor

from rectify.data import answers
from rectify.data.manifests import CLASSES, manifest
from rectify.data.sets import FileSet
from rectify.data.texts import filled_up, load_texts, save_texts

KINDS = ("yes/no", "number", "other")
"""Kinds of answers: ``answer_type`` of VQA's files."""
FIELDS = ("words", "numbers", "kinds", "pictures", "given", "targets", "accuracies", "counts")


@dataclass(frozen=True)
class Question:
    """One question as it was published or drawn."""

    number: int
    """``question_id``."""
    text: str
    picture: int
    """Its image, by its place in ``Asked.pictures``."""
    kind: str
    most: str
    """``multiple_choice_answer``, the one given most."""
    said: tuple[str, ...]
    """By the ten annotators."""


@dataclass(frozen=True)
class Asked:
    """The questions of one split, before anything is made of them."""

    questions: Sequence[Question]
    pictures: Sequence[str]
    """Files of the images, or how they were drawn; in the order in which they are asked about."""
    images: UInt8[Tensor, "pictures 1 height width"] | None = None
    """Those that were drawn."""


@dataclass(frozen=True)
class QuestionSet:
    """One split."""

    words: Int32[Tensor, "questions longest"]
    """Numbers of tokens: see ``rectify.data.texts``."""
    numbers: Int64[Tensor, " questions"]
    kinds: UInt8[Tensor, " questions"]
    """Places in ``KINDS``."""
    pictures: Int64[Tensor, " questions"]
    given: Int64[Tensor, " entries"]
    """Answers by their number, those of a question one after the other."""
    targets: Float32[Tensor, " entries"]
    """What a model learns of each, 0 .. 1."""
    accuracies: Float32[Tensor, " entries"]
    """How right each is, 0 .. 1."""
    counts: Int64[Tensor, " questions"]
    """How many answers each question has."""
    texts: tuple[str, ...]
    """As they were asked."""
    answers: tuple[str, ...]
    """All that may be given."""
    images: UInt8[Tensor, "pictures 1 height width"] | FileSet | None = None
    """None where they stay in files and the set has no place yet."""

    def __len__(self) -> int:
        return len(self.numbers)

    def dense(
        self, values: Float32[Tensor, " entries"], items: Int64[Tensor, " batch"]
    ) -> Float32[Tensor, "batch answers"]:
        """Return ``targets`` or ``accuracies`` of some questions, 0 for answers nobody gave."""
        counts = self.counts[items]
        made = torch.zeros(len(items), len(self.answers))
        rows = torch.arange(len(items)).repeat_interleave(counts)
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        entries = (self.counts.cumsum(0) - self.counts)[items][rows] + places
        made[rows, self.given[entries]] = values[entries]
        return made

    @property
    def learnable(self) -> Int64[Tensor, " items"]:
        """Questions to which somebody gave an answer that a model may give."""
        owners = torch.arange(len(self)).repeat_interleave(self.counts)
        return owners[self.targets > 0].unique()


def gathered(
    asked: Asked, may_be_given: Sequence[str], tokens: Sequence[Sequence[int]]
) -> QuestionSet:
    """Return a split with what each answer is worth.

    Args:
        asked: Its questions.
        may_be_given: Answers by their number.
        tokens: Of each question.
    """
    exact = {answer: number for number, answer in enumerate(may_be_given)}
    compared = answers.numbered(may_be_given)
    given, targets, right, counts = [], [], [], []
    for question in asked.questions:
        soft = answers.soft_targets(question.said, exact)
        own = answers.accuracies(question.said, compared)
        either = sorted({*soft, *own})
        given += either
        targets += [soft.get(number, 0.0) for number in either]
        right += [own.get(number, 0.0) for number in either]
        counts.append(len(either))
    return QuestionSet(
        words=filled_up(tokens),
        numbers=torch.tensor([question.number for question in asked.questions]),
        kinds=torch.tensor([KINDS.index(q.kind) for q in asked.questions], dtype=torch.uint8),
        pictures=torch.tensor([question.picture for question in asked.questions]),
        given=torch.tensor(given, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.float32),
        accuracies=torch.tensor(right, dtype=torch.float32),
        counts=torch.tensor(counts),
        texts=tuple(question.text for question in asked.questions),
        answers=tuple(may_be_given),
        images=asked.images,
    )


def listing_of(split_by_name: Mapping[str, Asked], may_be_given: Sequence[str]) -> DataFrame:
    """Return the manifest of the splits: the class of a question is its most frequent answer."""
    numbers = {answer: number for number, answer in enumerate(may_be_given)}
    return manifest(
        (split, numbers.get(answer, -1), answer, asked.pictures[question.picture])
        for split, asked in split_by_name.items()
        for question in asked.questions
        for answer in (answers.normalised(question.most),)
    )


def save_questions(
    folder: Path,
    sets: Mapping[str, QuestionSet],
    listing: DataFrame,
    files: Path | None,
    provenance: dict,
) -> None:
    """Write the splits of a set; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: By split.
        listing: Their manifest.
        files: Folder that the images are named from, where they stay in their files.
        provenance: What ``rectify.results.provenance.provenance`` returned.
    """
    answers = next(iter(sets.values())).answers
    spoken = json.dumps(answers, ensure_ascii=False)
    facts = {**provenance["facts"], CLASSES: hashlib.sha256(spoken.encode()).hexdigest()}
    provenance = {**provenance, "facts": facts}
    notes = {"answers": answers, "texts": {split: one.texts for split, one in sets.items()}}
    save_texts(folder, sets, FIELDS, listing, files, provenance, notes)


def load_questions(folder: Path, split: str) -> QuestionSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    tensors, notes = load_texts(folder, split, FIELDS)
    texts, answers = notes["texts"][split], notes["answers"]
    return QuestionSet(**tensors, texts=tuple(texts), answers=tuple(answers))
