"""Drawn scenes: one object among three that only its alphabet tells it from, and exact masks."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch

from rectify.data.sets import ImageSet
from rectify.demo.fonts import characters
from rectify.demo.scenes import CHARACTERS, FOREIGN, INK, SHOWN, classes, masks, scenes
from rectify.filtering.overlap import ious, permuted, shares, token_masks
from rectify.trunks.activations import magnitude, pixel_tokens

ITEMS = 20


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    return scenes(image_size=56, seed=0, train_items=3, test_items=ITEMS)


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    return np.stack(masks(image_size=56, seed=0, test_items=ITEMS))


def quarters(image: np.ndarray) -> list[np.ndarray]:
    return [image[r : r + 28, c : c + 28] for r in (0, 28) for c in (0, 28)]


def test_every_face_has_every_character_and_the_alphabets_are_apart() -> None:
    assert all(characters(face) >= {*CHARACTERS, *FOREIGN} for face in SHOWN)
    assert len(SHOWN) == 2
    assert {unicodedata.name(c).split()[0] for c in CHARACTERS} == {"LATIN"}
    assert {unicodedata.name(c).split()[0] for c in FOREIGN} == {"GREEK", "CYRILLIC"}


def test_classes_are_alike_often_and_sorted_as_their_masks_are_numbered(sets) -> None:
    assert list(classes()) == sorted(classes())
    assert all(images.classes == classes() for images in sets.values())
    assert Counter(sets["test"].labels.tolist()) == dict.fromkeys(range(8), ITEMS)
    assert sets["train"].images.shape == (24, 1, 56, 56)
    assert len({*sets["test"].sources, *sets["train"].sources}) == 8 * (ITEMS + 3)


def test_the_mask_is_the_ink_of_one_quarter(sets, drawn: np.ndarray) -> None:
    places = []
    for image, mask, label in zip(
        sets["test"].images[:, 0].numpy(), drawn, sets["test"].labels.tolist(), strict=True
    ):
        assert set(np.unique(mask)) == {0, label + 1}
        found = [place for place, part in enumerate(quarters(mask)) if part.any()]
        assert len(found) == 1
        (place,) = found
        assert np.array_equal(quarters(mask)[place] > 0, quarters(image)[place] >= INK)
        places += found
    assert min(Counter(places).values()) > 20  # of 160, 40 each on average


def test_a_quarter_without_the_object_is_as_bright_and_as_full(sets, drawn: np.ndarray) -> None:
    ink = {True: [], False: []}
    for image, mask in zip(sets["test"].images[:, 0].numpy(), drawn, strict=True):
        for part, own in zip(quarters(image), quarters(mask), strict=True):
            assert part.max() > 200
            ink[bool(own.any())].append((part >= INK).mean())
    assert np.mean(ink[True]) == pytest.approx(np.mean(ink[False]), rel=0.1)


def test_pixels_alone_do_not_find_the_object(sets, drawn: np.ndarray) -> None:
    tokens = token_masks(torch.from_numpy(drawn), sets["test"].labels + 1, (8, 8), 0.25)
    assert tokens.inside.any(1).all()
    maps = magnitude(pixel_tokens(sets["test"].images / 255, (8, 8))).flatten(1)
    pixels = ious(maps, tokens).amax(1).mean()
    floor = ious(permuted(maps, tokens, torch.Generator().manual_seed(0)), tokens).amax(1).mean()
    assert shares(tokens).mean() < floor < 0.2
    assert 0.25 < pixels < 0.35


def test_the_same_seed_draws_the_same_scenes(sets, drawn: np.ndarray) -> None:
    again = scenes(image_size=56, seed=0, train_items=3, test_items=ITEMS)
    other = scenes(image_size=56, seed=1, train_items=3, test_items=ITEMS)
    assert torch.equal(again["test"].images, sets["test"].images)
    assert not torch.equal(other["test"].images, sets["test"].images)
    alone = scenes(image_size=56, seed=0, train_items=5, test_items=ITEMS)
    assert torch.equal(alone["test"].images, sets["test"].images)
