"""Signs in one of four places, with five captions each: retrieval in miniature.

An image shows a digit, a Latin or a Greek letter in one of its quarters, white or grey, and each
caption says all of it. Each of the 96 combinations is drawn before one is drawn again, so no two of
up to 96 test images have the same captions. The faces are the same in training and test, the
drawings are not.
"""

from itertools import product

import numpy as np
import torch

from rectify.data.captioned import Captioned
from rectify.demo.questions import NAMES, PLACES, SHADES, Sign, drawn
from rectify.runtime import seed_for

WORDINGS = (
    "a {shade} {name} at the {place}",
    "at the {place} there is a {name} in {shade}",
    "{place}: {shade} {name}",
    "the sign at the {place} is a {shade} {name}",
    "one {name}, which is {shade}, {place}",
)


def captions(
    *, image_size: int = 56, seed: int = 0, train_items: int = 192, test_items: int = 32
) -> dict[str, Captioned]:
    """Return train and test.

    Args:
        image_size: Height and width in pixels, an even number.
        seed: Of every draw.
        train_items: Training images.
        test_items: Test images.
    """
    items = {"train": train_items, "test": test_items}
    return {split: _split(split, count, image_size, seed) for split, count in items.items()}


def _split(split: str, count: int, image_size: int, seed: int) -> Captioned:
    random = np.random.default_rng(seed_for(seed, "captions", split))
    every = list(product(NAMES, PLACES, SHADES))
    rounds = [random.permutation(len(every)) for _ in range(-(-count // len(every)))]
    shown = [every[n] for n in np.concatenate(rounds)[:count]]
    images = [drawn({place: Sign(name, shade)}, image_size, random) for name, place, shade in shown]
    texts = [
        [wording.format(name=name, place=place, shade=shade) for wording in WORDINGS]
        for name, place, shade in shown
    ]
    names = [f"{split} draw {number}" for number in range(len(shown))]
    return Captioned(names, texts, torch.from_numpy(np.stack(images))[:, None])
