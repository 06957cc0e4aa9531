"""The broad set: labels are the first words of names, and the test shows other characters."""

import unicodedata
from collections import Counter

import pytest
import torch

from rectify.data.sets import ImageSet
from rectify.demo.fonts import FACES, characters, extent, legible
from rectify.tasks.image_classification.readers.scripts import read


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    """Return the set with one face, which is a third of it."""
    return read(faces=1)


def shown(images: ImageSet) -> list[str]:
    """Return the characters of a split."""
    return [chr(int(source.split()[0].removeprefix("U+"), 16)) for source in images.sources]


def test_a_label_is_how_the_name_begins(sets: dict[str, ImageSet]) -> None:
    for images in sets.values():
        for character, label in zip(shown(images), images.labels.tolist(), strict=True):
            name = unicodedata.name(character).lower()
            assert f"{name} ".startswith(f"{images.classes[label]} ")


def test_kinds_are_frequent_and_of_two_words_where_these_are_frequent(
    sets: dict[str, ImageSet],
) -> None:
    kinds = Counter(
        images.classes[label] for images in sets.values() for label in images.labels.tolist()
    )
    assert len(kinds) == 50
    assert min(kinds.values()) >= 20
    names = [unicodedata.name(one).lower().split() for one in legible(FACES[0])]
    pairs = Counter(" ".join(words[:2]) for words in names)
    frequent = {pair for pair, count in pairs.items() if count >= 20}
    assert {kind for kind in kinds if " " in kind} == {pair for pair in frequent if " " in pair}


def test_the_test_shows_characters_that_training_does_not(sets: dict[str, ImageSet]) -> None:
    train, test = set(shown(sets["train"])), set(shown(sets["test"]))
    assert not train & test
    assert len(test) == pytest.approx(0.05 * (len(train) + len(test)), abs=1)


@pytest.mark.slow
def test_the_seed_decides_every_pixel(sets: dict[str, ImageSet]) -> None:
    again, other = read(faces=1), read(faces=1, seed=1)
    for split, images in sets.items():
        assert torch.equal(images.images, again[split].images)
        assert images.sources != other[split].sources


def test_legible_characters_are_a_faces_own_and_not_tiny() -> None:
    some = legible(FACES[0])
    assert set(some) <= characters(FACES[0])
    assert "a" in some
    assert "." not in some
    assert min(extent(one, FACES[0]) for one in some) >= 0.3
