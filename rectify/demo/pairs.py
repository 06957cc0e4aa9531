"""Embedded image-caption pairs, and the names that small language models read.

The pairs show a character; its caption is the name that Unicode gives it, in small letters
("greek small letter alpha"). Nothing but the pairing connects the two, as with photographs
and their captions.
"""

import unicodedata

import numpy as np
import torch

from rectify.data.pairs import SPLIT
from rectify.data.sets import ImageSet
from rectify.demo.corruptions import Grey
from rectify.demo.fonts import FACES, characters, draw, legible
from rectify.runtime import seed_for

FACE = FACES[0]
BASIC_PLANE = range(0x10000)
SYSTEMATIC = ("CJK ", "HANGUL SYLLABLE", "YI SYLLABLE", "VARIATION SELECTOR")
"""Beginnings of names that only count up."""


def pairs(*, image_size: int, seed: int, items: int) -> dict[str, ImageSet]:
    """Return pictures of distinct characters with their names, in an order drawn from the seed.

    Raises:
        ValueError: If the font has fewer characters.
    """
    drawn = pictures(image_size=image_size, seed=seed, items=items)
    images = torch.from_numpy(np.stack(list(drawn.values())))[:, None]
    labels = torch.full((items,), -1)
    sources = tuple(map(source, drawn))
    return {SPLIT: ImageSet(images, labels, (), sources, tuple(map(caption, drawn)))}


def pictures(*, image_size: int, seed: int, items: int) -> dict[str, Grey]:
    """Return distinct characters and what they look like, in an order drawn from the seed.

    Raises:
        ValueError: If the font has fewer characters.
    """
    drawn = _drawn(image_size, items, np.random.default_rng(seed_for(seed, SPLIT)))
    if len(drawn) < items:
        raise ValueError(
            f"pairs: items must not exceed the {len(drawn)} characters of {FACE.name}, "
            f"got {items}. Ask for fewer."
        )
    return drawn


def source(character: str) -> str:
    """Return how a character is listed."""
    return f"U+{ord(character):04X} in {FACE.name}"


def caption(character: str) -> str:
    """Return the Unicode name of a character in small letters."""
    return unicodedata.name(character).lower()


def names_corpus() -> list[str]:
    """Return each name of a character once, in the order of the code points.

    These are the characters of the faces and those of the basic plane, without the rows of
    ideographs and syllables whose names only count up.
    """
    covered = {ord(character) for face in FACES for character in characters(face)}
    named = (unicodedata.name(chr(code), "") for code in sorted(covered | set(BASIC_PLANE)))
    return [name.lower() for name in named if name and not name.startswith(SYSTEMATIC)]


def _drawn(image_size: int, items: int, random: np.random.Generator) -> dict[str, Grey]:
    """Draw characters in random order; none is too small, and no two look the same."""
    candidates = legible(FACE)
    seen: set[bytes] = set()
    images: dict[str, Grey] = {}
    for place in random.permutation(len(candidates)):
        character = candidates[place]
        if len(images) < items:
            image = draw(character, FACE, image_size)
            if image.tobytes() not in seen:
                seen.add(image.tobytes())
                images[character] = image
    return images
