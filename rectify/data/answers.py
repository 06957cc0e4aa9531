"""Answers of VQA: how words are made alike, which answers may be given, and what each is worth.

The rules are those of the public evaluation of VQA (Antol et al., 2015; Goyal et al., 2017) and of
ViLT's and METER's preparation, with the slips that all copies share: only the first 32 periods of
an answer are removed, and one between a digit and a letter is, too.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

LEAST = 9
"""Questions that must have an answer as their most frequent one, so that it may be given."""
SHARES = (0.0, 0.3, 0.6, 0.9, 1.0)
"""What an answer is worth that so many of ten annotators gave; four are as good as ten."""
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)")
PERIODS = 32  # ``re.UNICODE`` stands where the public code should have a count
COMMA = re.compile(r"\d,\d")
ARTICLES = ("a", "an", "the")
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {"none": "0", **{word: f"{number}" for number, word in enumerate(NUMBERS.split())}}
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Words that get one apostrophe back that they have lost."""


def _without_one(word: str) -> Iterable[str]:
    return (word[:n] + word[n + 1 :] for n, letter in enumerate(word) if letter == "'")


CONTRACTIONS = {short: word for word in CONTRACTED.split() for short in _without_one(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # as published


@functools.cache
def unpunctuated(answer: str) -> str:
    """Return an answer without its punctuation.

    A mark is removed where one of its kind is next to a space, or where the answer has a comma
    between digits; else a space takes its place. Periods are removed but before digits.
    """
    has_number = COMMA.search(answer) is not None
    text = answer
    for mark in PUNCTUATION:
        is_removed = has_number or f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if is_removed else " ")
    return PERIOD.sub("", text, count=PERIODS)


@functools.cache
def normalised(answer: str) -> str:
    """Return an answer as it is compared: lower case, digits for numbers, without articles."""
    words = [DIGITS.get(word, word) for word in unpunctuated(answer).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vocabulary(most_frequent: Iterable[str], least: int = LEAST) -> tuple[str, ...]:
    """Return the answers that may be given, in the order in which they come first.

    Args:
        most_frequent: Of each question, of all splits that are known, the answer given most.
        least: How many questions must have it.
    """
    counts = Counter(map(normalised, most_frequent))
    return tuple(answer for answer, count in counts.items() if count >= least)


def numbered(answers: Sequence[str]) -> dict[str, list[int]]:
    """Return which of the answers are compared as a text, by that text."""
    found: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        found.setdefault(normalised(answer), []).append(number)
    return found


def soft_targets(said: Sequence[str], numbers: Mapping[str, int]) -> dict[int, float]:
    """Return what a model learns of a question: the worth of each answer that was given to it.

    Args:
        said: By the ten annotators; taken as they wrote it, as METER does.
        numbers: Of the answers that may be given.
    """
    given = Counter(numbers[answer] for answer in said if answer in numbers)
    return {number: worth(count) for number, count in given.items()}


def accuracies(said: Sequence[str], numbers: Mapping[str, Sequence[int]]) -> dict[int, float]:
    """Return how right each answer is to a question; all others are wrong.

    Args:
        said: By the ten annotators; of punctuation only, and if they differ at all, they are freed.
        numbers: What `numbered` returned.
    """
    compared = map(unpunctuated, said) if len(set(said)) > 1 else said
    return {
        number: worth(count)
        for answer, count in Counter(compared).items()
        for number in numbers.get(answer, ())
    }


def worth(count: int) -> float:
    """Return the mean over the ten choices of nine of min(those who said it / 3, 1)."""
    return SHARES[min(count, len(SHARES) - 1)]
