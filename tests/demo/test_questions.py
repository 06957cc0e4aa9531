"""Drawn questions: truths of what is drawn, balance, annotators, and what words alone tell."""

from collections import Counter

import numpy as np
import pytest
import torch

from rectify.data.answers import ARTICLES, normalised
from rectify.data.questions import KINDS, Asked
from rectify.demo import questions as drawn
from rectify.demo.questions import EMPTY, NAMES, PLACES, questions

SCENES = 300


@pytest.fixture(scope="module")
def train() -> Asked:
    return questions(image_size=16, train_scenes=SCENES, test_scenes=1)["train"]


def asked(train: Asked, number: int) -> list:
    return train.questions[number::5]


def test_the_places_that_are_drawn_are_filled_as_often_as_they_should_be(train: Asked) -> None:
    quarters = train.images[:, 0].unflatten(1, (2, 8)).unflatten(3, (2, 8))
    filled = quarters.amax((2, 4)) > 0
    assert filled.flatten(1).any(1).all()
    share = 1 - EMPTY * 3 / 4  # one place is filled in any case
    assert filled.float().mean() == pytest.approx(share, abs=0.03)


def test_what_is_asked_for_is_what_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The glyphs are replaced by their places in NAMES, so that images can be read back."""
    signs = {character: n for n, character in enumerate(drawn.SIGNS.values(), 1)}

    def draw(character: str, face: object, size: int, pose: object, **_: object) -> np.ndarray:
        return np.full((size, size), 4 * signs[character] + 180, np.uint8)

    monkeypatch.setattr(drawn, "draw", draw)
    monkeypatch.setattr(drawn, "AGREEMENT", ((10,), (1.0,)))
    agreed = questions(image_size=4, train_scenes=200, test_scenes=1)["train"]
    shown = agreed.images[:, 0, ::2, ::2].flatten(1).tolist()
    for one in agreed.questions:
        seen = {}
        for place, level in zip(PLACES, shown[one.picture], strict=True):
            if level:
                bright = level >= 180
                code = (level if bright else round(level / 0.45)) - 180
                seen[place] = (NAMES[round(code / 4) - 1], "white" if bright else "grey")
        assert set(one.said) == {answer_to(one.text.removesuffix("?"), seen)}, one
        assert one.most == one.said[0]


def answer_to(text: str, seen: dict[str, tuple[str, str]]) -> str:
    sorts = {name: kind for n, name in enumerate(NAMES) for kind in [drawn.SORTS[n // 4]]}
    words = text.split()
    if text.startswith("is there"):
        return "yes" if words[-1] in {name for name, _ in seen.values()} else "no"
    if text.startswith("how many"):
        chosen = words[2].removesuffix("s")
        return str(sum(chosen in (shade, sorts[name]) for name, shade in seen.values()))
    place = next(place for place in PLACES if place in text)
    name, shade = seen[place]
    if text.startswith("is the sign"):
        return "yes" if shade == "grey" else "no"
    return sorts[name] if "kind" in text else name


def test_neither_yes_nor_a_name_is_usual(train: Asked) -> None:
    for number in (2, 4):
        yes = sum(one.said.count("yes") > 5 for one in asked(train, number))
        assert yes / SCENES == pytest.approx(0.5, abs=0.09)
    names = Counter(one.most for one in asked(train, 0))
    assert set(names) == set(NAMES)
    assert max(names.values()) < 0.16 * SCENES
    assert {one.kind for one in train.questions} == set(KINDS)


def test_annotators_agree_as_often_as_they_should(train: Asked) -> None:
    agree = [one.said.count(one.said[0]) for one in train.questions]
    for count, share in ((10, 0.55), (9, 0.2), (8, 0.12)):
        assert agree.count(count) / len(agree) == pytest.approx(share, abs=0.04)
    assert all(len(one.said) == 10 for one in train.questions)
    assert all(one.most == Counter(one.said).most_common(1)[0][0] for one in train.questions)


def test_each_draw_has_its_seed_and_no_name_is_changed() -> None:
    one, again, other = (questions(image_size=8, seed=s, train_scenes=4, test_scenes=4)
                         for s in (0, 0, 1))  # fmt: skip
    assert one["train"].questions == again["train"].questions
    assert torch.equal(one["test"].images, again["test"].images)
    assert one["train"].questions != other["train"].questions
    assert one["train"].questions != one["test"].questions
    assert all(normalised(name) == name and name not in ARTICLES for name in NAMES)
