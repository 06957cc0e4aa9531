"""What answers are scored by: exact matches, and what can be had without looking."""

from collections import Counter, defaultdict
from collections.abc import Hashable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rectify.data.situations import PADDING, SituationSet, first_word

TYPES = ("what", "is", "how", "can", "which")
"""First words of questions that are types of their own; all others are ``others``."""
OTHERS = "others"


def type_of(question: str) -> str:
    """Return the type of a question, by its first word as it is: ``What's`` is none of them."""
    word = first_word(question)
    return word if word in TYPES else OTHERS


def exact_matches(
    scores: Float[Tensor, "items answers"], right: Int64[Tensor, " items"], k: int
) -> Float[Tensor, " items"]:
    """Return 1 for each item whose right answer is among the ``k`` with the best scores, else 0.

    Of answers with the same score, those that come first are taken first.
    """
    own = scores.gather(1, right[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < right[:, None]
    better = (scores > own) | ((scores == own) & before)
    return (better.sum(1) < k).float()


def floors(asked: SituationSet, known: SituationSet) -> dict[str, Float[Tensor, " items"]]:
    """Return how right those are who never look, and choose by what was frequent in training.

    Args:
        asked: Test questions.
        known: Training questions.

    Returns:
        Of the most frequent answer to all questions (``one_answer``), to those of the same type
        (``by_type``), and to the very same question (``question_alone``): 1 where it is right.
        Where training has no such question, that of the type is taken, else that of all.
    """
    keys = {
        "one_answer": lambda words, kind: (),
        "by_type": lambda words, kind: (kind,),
        "question_alone": lambda words, kind: (kind, words),
    }
    answers = known.answers.tolist()
    counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for answer, words, kind in zip(answers, _spoken(known), types(known), strict=True):
        for key in keys.values():
            counts[key(words, kind)][answer] += 1
    made = {name: [] for name in keys}
    for words, kind in zip(_spoken(asked), types(asked), strict=True):
        for name, key in keys.items():
            full = key(words, kind)
            tries = [full[:length] for length in range(len(full), -1, -1)]
            usual = next(counts[one] for one in tries if one in counts)
            made[name].append(usual.most_common(1)[0][0])
    return {name: (torch.tensor(own) == asked.answers).float() for name, own in made.items()}


def types(questions: SituationSet) -> list[str]:
    """Return the type of each question."""
    return [type_of(" ".join(words)) for words in _spoken(questions)]


def _spoken(questions: SituationSet) -> list[tuple[str, ...]]:
    """Return the words of each question."""
    return [
        tuple(questions.words[number] for number in row if number != PADDING)
        for row in questions.questions.tolist()
    ]
