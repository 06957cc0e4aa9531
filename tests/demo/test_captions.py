"""Drawn captions: each says what is drawn, each combination is there equally often."""

from collections import Counter

import torch

from rectify.demo.captions import WORDINGS, captions
from rectify.demo.questions import NAMES, PLACES, SHADES


def test_every_sign_is_drawn_once_in_every_place_and_shade_and_described_five_times() -> None:
    test = captions(image_size=56, train_items=1, test_items=96)["test"]
    assert len(test.images) == len(test.captions) == len(NAMES) * len(PLACES) * len(SHADES) == 96
    seen = Counter()
    quarters = test.images[:, 0].unflatten(1, (2, 28)).unflatten(3, (2, 28)).amax((2, 4))
    for image, own in zip(quarters.flatten(1), test.captions, strict=True):
        assert len(own) == len(WORDINGS) == 5
        (place,) = {place for place in PLACES for text in own if place in text}
        (shade,) = {shade for shade in SHADES for text in own if shade in text.split()}
        assert all(place in text and shade in text for text in own)
        assert image.nonzero()[:, 0].tolist() == [PLACES.index(place)]
        assert (image.max() > 150) == (shade == "white")
        (name,) = {
            one for one in NAMES if all(one in text.replace(",", "").split() for text in own)
        }
        seen[name, place, shade] += 1
    assert set(seen.values()) == {1}


def test_training_has_more_drawings_and_they_differ() -> None:
    drawn = captions(image_size=8, train_items=192, test_items=32)
    train, test = drawn["train"], drawn["test"]
    halves = [{tuple(own) for own in train.captions[start : start + 96]} for start in (0, 96)]
    assert len(halves[0]) == len(halves[1]) == 96
    shown = {tuple(own): image for own, image in zip(train.captions, train.images, strict=True)}
    assert len({tuple(own) for own in test.captions}) == 32
    same = [
        torch.equal(shown[tuple(own)], image)
        for own, image in zip(test.captions, test.images, strict=True)
    ]
    assert sum(same) < 4
    again = captions(image_size=8, train_items=192, test_items=32)["train"].images
    assert torch.equal(again, train.images)
