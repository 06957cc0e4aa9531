"""Drawn pairs: distinct characters with their names, and the names that language models read."""

import unicodedata

import pytest
import torch

from rectify.demo import pairs
from rectify.demo.fonts import FACES, MODERN, draw
from rectify.tasks.pairs.readers.pairs import read


@pytest.fixture(scope="module")
def drawn():
    return read()["pairs"]


def test_there_are_1024_pairs_of_distinct_characters_and_pictures(drawn):
    assert len(drawn) == len(set(drawn.captions)) == 1024
    assert len({image.numpy().tobytes() for image in drawn.images}) == 1024
    assert drawn.images.shape == (1024, 1, 28, 28)
    assert drawn.labels.unique().tolist() == [-1]


def test_each_caption_names_the_character_of_its_image(drawn):
    for image, caption in zip(drawn.images[:100], drawn.captions[:100], strict=True):
        assert caption == caption.lower()
        character = unicodedata.lookup(caption.upper())
        assert torch.equal(image[0], torch.tensor(draw(character, FACES[0], 28)))


def test_every_image_shows_something_large(drawn):
    assert (drawn.images.amax((1, 2, 3)) > 100).all()


def test_the_order_depends_on_the_seed_alone(drawn):
    assert read(seed=1, items=10)["pairs"].captions != drawn.captions[:10]
    assert read(seed=0, items=10)["pairs"].captions == drawn.captions[:10]


def test_more_pairs_than_characters_are_refused(monkeypatch):
    monkeypatch.setattr(pairs, "FACE", MODERN[0])
    message = r"^pairs: items must not exceed the 62 characters of Computer Modern roman, got 63\."
    assert len(read(items=62)["pairs"]) == 62
    with pytest.raises(ValueError, match=message):
        read(items=63)


def test_the_corpus_has_every_caption_once_and_no_counted_names(drawn):
    corpus = pairs.names_corpus()
    assert len(corpus) == len(set(corpus)) > 10_000
    assert set(drawn.captions) <= set(corpus)
    assert not [name for name in corpus if "cjk unified" in name or "hangul syllable" in name]
    assert {character for name in corpus for character in name} <= set(
        "abcdefghijklmnopqrstuvwxyz0123456789- "
    )
    assert corpus == pairs.names_corpus()
