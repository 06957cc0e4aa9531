"""Scenes of four equally bright characters: the class is the one of the known alphabet.

In each quarter of an image is a character. One is a Latin letter, which says the class; the three
others are letters of foreign alphabets that look like no Latin one. So neither brightness nor size
tells the object from the rest, but only what it is. Chance is 1 / 8.
"""

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from rectify.data.sets import ImageSet
from rectify.demo.corruptions import Grey
from rectify.demo.fonts import FACES, draw
from rectify.demo.glyphs import upright
from rectify.runtime import seed_for

CHARACTERS = "BEHKRSTZ"
FOREIGN = "ΓΔΘΛΞΠΣΦΨΩБДЖИЦЧШЪЫЭЮЯ"
SHOWN = tuple(
    face for face in FACES if face.name in ("DejaVu Sans regular", "DejaVu Serif regular")
)
"""Two faces, the same in training and test, so that a small model learns the letters quickly."""
INK = 128  # grey level from which a pixel is of the character
STROKES = (1, 3)  # least and most sixtieths of an em by which lines are made thicker


class Scene(NamedTuple):
    """One image, and the pixels of its object."""

    image: Grey
    mask: Int64[np.ndarray, "size size"]
    """The number of the class, from 1, where the object is."""
    label: int
    source: str


def scenes(*, image_size: int, seed: int, train_items: int, test_items: int) -> dict[str, ImageSet]:
    """Return train and test scenes.

    Args:
        image_size: Height and width in pixels, an even number.
        seed: Of every draw.
        train_items: Training images per class.
        test_items: Test images per class.
    """
    return {
        split: _collected(list(_drawn(split, items, image_size, seed)))
        for split, items in (("train", train_items), ("test", test_items))
    }


def masks(*, image_size: int, seed: int, test_items: int) -> list[Int64[np.ndarray, "size size"]]:
    """Return the masks of the test scenes, in their order; arguments as in `scenes`."""
    return [scene.mask for scene in _drawn("test", test_items, image_size, seed)]


def classes() -> tuple[str, ...]:
    """Return the names of the classes, sorted as ImageNet-S numbers them."""
    return tuple(sorted(unicodedata.name(character) for character in CHARACTERS))


def _drawn(split: str, items: int, image_size: int, seed: int) -> Iterator[Scene]:
    random = np.random.default_rng(seed_for(seed, "scenes", split))
    for label, name in enumerate(classes()):
        for item in range(items):
            yield _scene(label, f"{split}/{name}/{item:04}.png", image_size, random)


def _scene(label: int, source: str, image_size: int, random: np.random.Generator) -> Scene:
    half = image_size // 2
    image = np.zeros((image_size, image_size), np.uint8)
    mask = np.zeros((image_size, image_size), np.int64)
    foreign = random.permutation(list(FOREIGN))[:3]
    own = unicodedata.lookup(classes()[label])
    quarters = random.permutation(4)
    for quarter, character in zip(quarters, (own, *foreign), strict=True):
        rows, columns = (slice(half * place, half * (place + 1)) for place in divmod(quarter, 2))
        drawn = _character(f"{character}", half, random)
        image[rows, columns] = drawn
        if quarter == quarters[0]:
            mask[rows, columns] = np.where(drawn >= INK, label + 1, 0)
    return Scene(image, mask, label, source)


def _character(character: str, size: int, random: np.random.Generator) -> Grey:
    face = SHOWN[int(random.integers(len(SHOWN)))]
    stroke = int(random.integers(STROKES[0], STROKES[1] + 1))
    return draw(character, face, size, upright(random), stroke=stroke)


def _collected(drawn: list[Scene]) -> ImageSet:
    images = torch.from_numpy(np.stack([scene.image for scene in drawn]))[:, None]
    labels = torch.tensor([scene.label for scene in drawn])
    return ImageSet(images, labels, classes(), tuple(scene.source for scene in drawn))
