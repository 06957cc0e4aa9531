"""Exact matches and floors: against loops, and the printed shares of the published test set."""

from collections import Counter

import pytest
import torch

from rectify.data.situations import first_word
from rectify.demo.rooms import rooms
from rectify.runtime import generator
from rectify.tasks.situated_question_answering.measures import (
    exact_matches,
    floors,
    type_of,
    types,
)
from rectify.tasks.situated_question_answering.prepare import prepare
from rectify.tasks.situated_question_answering.settings import Settings

ITEMS = {"what": 1144, "is": 652, "how": 465, "can": 338, "which": 351, "others": 569}
"""Test questions of SQA3D by their first word."""
RIGHT = {"ScanQA": (362, 416, 214, 235, 154, 258), "SQA3D": (383, 431, 197, 235, 151, 264)}
PRINTED = {"ScanQA": "31.64 63.80 46.02 69.53 43.87 45.34 46.58",
           "SQA3D": "33.48 66.10 42.37 69.53 43.02 46.40 47.20"}  # fmt: skip
SIZES = {"seed": 0, "train_rooms": 24, "test_rooms": 8, "stored": 30}


@pytest.mark.parametrize("row", RIGHT)
def test_printed_rows_are_so_many_of_3519(row: str) -> None:
    """Both rows that Pang et al. quote are exact matches of whole questions, type by type."""
    shares, matches = [], []
    for right, items in zip(RIGHT[row], ITEMS.values(), strict=True):
        scores = torch.randn(items, 20, generator=generator(0))
        answers = scores.argmax(1)
        answers[right:] = (answers[right:] + 1) % 20
        matches.append(exact_matches(scores, answers, 1))
        shares.append(matches[-1].double().mean().item())
    whole = torch.cat(matches)
    assert int(whole.sum()) == {"ScanQA": 1639, "SQA3D": 1661}[row]
    assert len(whole) == 3519
    shares.append(whole.double().mean().item())
    assert [f"{100 * share:.2f}" for share in shares] == PRINTED[row].split()


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_a_match_is_among_the_first_k_of_a_sort(k: int) -> None:
    scores = torch.randint(0, 4, (40, 6), generator=generator(1)).float()  # many are equal
    answers = torch.randint(0, 6, (40,), generator=generator(2))
    found = exact_matches(scores, answers, k)
    for row, right, match in zip(scores.tolist(), answers.tolist(), found.tolist(), strict=True):
        order = sorted(range(6), key=lambda answer: -row[answer])  # first ones first
        assert match == (right in order[:k])


def test_types_are_first_words_as_they_are() -> None:
    asked = ["What is it?", "WHICH one?", "What's it?", "On my left?", "can I", "is it", "How?"]
    assert [type_of(text) for text in asked] == [
        "what", "which", "others", "others", "can", "is", "others"
    ]  # fmt: skip


def test_floors_are_what_was_most_frequent_in_training() -> None:
    told = rooms(seed=0, train_rooms=24, test_rooms=8, stored=30)
    keys = {"reader": "rooms", "answers": 11, "words": 64, "sizes": SIZES}
    sets = prepare("toy", Settings.model_validate(keys), None, 1).sets
    known, asked = (told[split].situations for split in ("train", "test"))
    found = floors(sets["test"], sets["train"])
    assert types(sets["test"]) == [
        first_word(one.question).replace("on", "others") for one in asked
    ]
    unsure = 0
    for place, one in enumerate(asked):
        same = [other for other in known if other.question == one.question]
        kind = [o for o in known if first_word(o.question) == first_word(one.question)]
        for name, group in (
            ("one_answer", known), ("by_type", kind), ("question_alone", same or kind)
        ):  # fmt: skip
            counts = Counter(other.answer for other in group)
            usual = {answer for answer, many in counts.items() if many == max(counts.values())}
            unsure += len(usual) > 1
            if len(usual) == 1 or one.answer not in usual:
                assert found[name][place] == (one.answer in usual)
    assert unsure < 3 * len(asked) / 2
    assert found["one_answer"].mean() < found["by_type"].mean()
