"""A broad set with labels in words: which kind of character is this?

``scripts`` shows the characters of a font with a few thousand of them. The label is how the
Unicode name begins ("greek small", "braille pattern", "box drawings"), so that it shares
words with the captions of the pairs, as ImageNet-21k's labels do with the captions of
photographs. It plays the part of that set: vision transformers trained on it are compared
with language models. Chance is the share of the most frequent kind, about 0.1.
"""

import unicodedata
from collections import Counter

import numpy as np
import torch

from rectify.data.sets import ImageSet
from rectify.demo.fonts import FACES, Pose, characters, draw, legible
from rectify.runtime import seed_for


def scripts(
    *,
    image_size: int,
    seed: int,
    faces: int,
    frequent: int,
    test_share: float,
) -> dict[str, ImageSet]:
    """Return train and test sets; the test's characters are not in training.

    Args:
        image_size: Height and width in pixels.
        seed: Of the split and of every draw.
        faces: Faces that a character is drawn in, where they have it.
        frequent: A kind must have at least that many characters.
        test_share: Share of the characters that only the test shows.
    """
    random = np.random.default_rng(seed_for(seed, "scripts"))
    kinds = _kinds(legible(FACES[0]), frequent)
    classes = tuple(sorted(set(kinds.values())))
    order = [list(kinds)[place] for place in random.permutation(len(kinds))]
    held_out = round(test_share * len(order))
    chosen = {"train": order[held_out:], "test": order[:held_out]}
    return {
        split: _drawn(characters, kinds, classes, faces, image_size, random)
        for split, characters in chosen.items()
    }


def _drawn(
    shown: list[str],
    kinds: dict[str, str],
    classes: tuple[str, ...],
    faces: int,
    image_size: int,
    random: np.random.Generator,
) -> ImageSet:
    images, labels, sources = [], [], []
    for character in shown:
        for face in (face for face in FACES[:faces] if character in characters(face)):
            angle, shear, right, down = random.uniform(-1, 1, 4) * (8, 0.12, 0.08, 0.08)
            pose = Pose(float(angle), float(random.uniform(0.8, 1)), float(shear), right, down)
            images.append(draw(character, face, image_size, pose))
            labels.append(classes.index(kinds[character]))
            sources.append(f"U+{ord(character):04X} in {face.name}")
    stacked = torch.from_numpy(np.stack(images))[:, None]
    return ImageSet(stacked, torch.tensor(labels), classes, tuple(sources))


def _kinds(known: list[str], frequent: int) -> dict[str, str]:
    """Return each character's kind: the first two words of its name or the first, if frequent."""
    words = {character: unicodedata.name(character).lower().split() for character in known}
    pairs = Counter(" ".join(name[:2]) for name in words.values())
    pairs = {pair for pair, count in pairs.items() if count >= frequent}
    rest = Counter(name[0] for name in words.values() if " ".join(name[:2]) not in pairs)
    singles = {word for word, count in rest.items() if count >= frequent}
    kinds = {}
    for character, name in words.items():
        pair = " ".join(name[:2])
        if pair in pairs or name[0] in singles:
            kinds[character] = pair if pair in pairs else name[0]
    return kinds
