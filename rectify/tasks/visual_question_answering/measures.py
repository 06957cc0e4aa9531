"""What can be answered without looking: the floor of every score."""

from collections import Counter, defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from rectify.data.questions import QuestionSet
from rectify.data.texts import PADDING


def alone(asked: QuestionSet, known: QuestionSet) -> Float[Tensor, " questions"]:
    """Return the accuracy of the best answer to a question's words, whatever the image shows.

    It is the answer that is worth most, in all, to the same words in training; where they never
    stand there, the one that is worth most to all training questions.

    Args:
        asked: Test questions.
        known: Training questions.
    """
    worth: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    everything: Counter[int] = Counter()
    entries = zip(known.given.tolist(), known.targets.tolist(), strict=True)
    for words, count in zip(_spoken(known), known.counts.tolist(), strict=True):
        for _ in range(count):
            answer, target = next(entries)
            worth[words][answer] += target
            everything[answer] += target
    best = {words: found.most_common(1)[0][0] for words, found in worth.items()}
    usual = everything.most_common(1)[0][0]
    chosen = torch.tensor([best.get(words, usual) for words in _spoken(asked)])
    owners = torch.arange(len(asked)).repeat_interleave(asked.counts)
    right = asked.accuracies * (asked.given == chosen[owners])
    return torch.zeros(len(asked)).index_add(0, owners, right)


def _spoken(questions: QuestionSet) -> list[tuple[int, ...]]:
    """Return the tokens of each question, however far it is filled up."""
    lengths = (questions.words != PADDING).sum(1).tolist()
    rows = questions.words.tolist()
    return [tuple(row[:length]) for row, length in zip(rows, lengths, strict=True)]
