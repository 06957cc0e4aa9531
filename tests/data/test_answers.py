"""Answers of VQA: made alike, counted, and worth what the definition says."""

import random
from collections import Counter

import pytest

from rectify.data.answers import (
    CONTRACTIONS,
    SHARES,
    accuracies,
    normalised,
    numbered,
    soft_targets,
    unpunctuated,
    vocabulary,
    worth,
)

ALIKE = {
    "Two": "2", "none": "0", "ten dogs": "10 dogs", "a": "", "The cat": "cat", "an apple": "apple",
    "dont": "don't", "couldntve": "couldntve", "couldnt've": "couldn't've", "im": "im",
    "couldn'tve": "couldn't've", "y'alldve": "y'alldve", "yall'd've": "y'all'd've",
    "ow's'at": "'ow's'at", "somebody'd": "somebodyd", "twas": "'twas", "lets": "lets",
    "10:30": "10:30", "1,000": "1000", "3.5": "3.5", "U.S.": "us", "St. Louis": "st louis",
    "yes.": "yes", "t-shirt": "t shirt", "wait - what": "wait what", "black/white": "black white",
    "black / white": "black white", "1,000 m/s": "1000 ms", "red,": "red", "red, blue": "red blue",
    "50%": "50%", "$5": "$5", "o'clock": "o'clock", "oclock": "o'clock", "no!": "no", "why?": "why",
}  # fmt: skip


@pytest.mark.parametrize("answer", ALIKE)
def test_answers_are_made_alike_as_published(answer: str) -> None:
    assert normalised(answer) == ALIKE[answer]
    assert normalised(ALIKE[answer]) == ALIKE[answer]


def test_the_slips_of_the_public_code_are_kept() -> None:
    assert normalised("." * 60) == "." * 28
    assert normalised("v2.b") == "v2b"
    assert normalised("2.5") == "2.5"


def test_a_contraction_lacks_one_apostrophe() -> None:
    for short, word in CONTRACTIONS.items():
        if short != "somebody'd":
            assert short.replace("'", "") == word.replace("'", "")
            assert word.count("'") - short.count("'") == 1
    assert len(CONTRACTIONS) == 114


def test_answers_that_are_frequent_may_be_given_in_the_order_in_which_they_come() -> None:
    most = ["two", "red", "2", "a red", "blue", "red", "the red", "2"]
    assert vocabulary(most, least=3) == ("2", "red")
    assert vocabulary(most, least=1) == ("2", "red", "blue")
    assert vocabulary(most) == ()
    assert vocabulary(["x"] * 8 + ["y"] * 9) == ("y",)


def chosen_nine(said: list[str], answer: str) -> float:
    """The definition, as the public code evaluates it: each annotator is left out once."""
    if len(set(said)) > 1:
        said = [unpunctuated(one) for one in said]
    shares = []
    for left_out in range(10):
        others = [one for place, one in enumerate(said) if place != left_out]
        matching = [one for one in others if one == normalised(answer)]
        shares.append(min(1.0, len(matching) / 3))
    return sum(shares) / 10


def test_the_accuracy_is_the_mean_over_the_choices_of_nine() -> None:
    draws = random.Random(0)
    words = ["yes", "no", "yes.", "2", "two", "red/blue", "red blue", "The end", "t-shirt"]
    may_be_given = ["yes", "no", "2", "red blue", "end", "the end", "never said"]
    for _ in range(300):
        said = draws.choices(words[: draws.randint(1, len(words))], k=10)
        found = accuracies(said, numbered(may_be_given))
        for number, answer in enumerate(may_be_given):
            assert found.get(number, 0.0) == pytest.approx(chosen_nine(said, answer))


def test_ten_who_agree_are_compared_as_they_wrote() -> None:
    numbers = numbered(["yes"])
    assert accuracies(["yes."] * 10, numbers) == {}
    assert accuracies(["yes."] * 9 + ["no"], numbers) == {0: 1.0}


def test_soft_targets_are_of_answers_as_they_were_written() -> None:
    numbers = {"yes": 0, "no": 1, "2": 2}
    said = ["yes"] * 5 + ["no"] * 2 + ["No", "two", "yes."]
    assert soft_targets(said, numbers) == {0: 1.0, 1: 0.6}
    for count in range(11):
        share = chosen_nine(["yes"] * count + ["no"] * (10 - count), "yes")
        assert worth(count) == pytest.approx(share)
    assert Counter(SHARES) == Counter([0.0, 0.3, 0.6, 0.9, 1.0])
