"""Questions about scenes of four places, with ten simulated annotators: VQA in miniature.

In each quarter of an image is a digit, a Latin or a Greek letter, white or grey, or nothing. Five
questions are asked about a scene, one of each kind:

    what is at the top left?                      its name
    what kind of sign is at the top left?         digit, latin, greek
    is the sign at the top left grey?             yes, no
    how many digits are there?                    0 ... 4; also of letters, grey and white signs
    is there a psi?                               yes, no: there is in every other scene

Two faces are used, the same in training and test. Mostly all ten annotators agree with the truth,
but sometimes only nine, eight, six or three do.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from rectify.data.questions import Asked, Question
from rectify.demo.fonts import draw
from rectify.demo.glyphs import upright
from rectify.demo.scenes import SHOWN
from rectify.runtime import seed_for

SIGNS = {
    "2": "2", "3": "3", "5": "5", "7": "7", "e": "E", "h": "H", "k": "K", "r": "R",
    "delta": "Δ", "sigma": "Σ", "psi": "Ψ", "omega": "Ω",
}  # fmt: skip
"""Characters by what they are called; none of the names is an article or a number's word."""
NAMES = tuple(SIGNS)
SORTS = ("digit", "latin", "greek")
MANY = {"digit": "digits", "latin": "latin letters", "greek": "greek letters"}
PLACES = ("top left", "top right", "bottom left", "bottom right")
SHADES = {"white": 1.0, "grey": 0.45}
EMPTY = 0.15
AGREEMENT = ((10, 9, 8, 6, 3), (0.55, 0.2, 0.12, 0.1, 0.03))
"""Annotators of ten who say what is true, and how often it is so many."""
YES_NO = ("yes", "no")
COUNTS = ("0", "1", "2", "3", "4")

Array = np.ndarray


class Sign(NamedTuple):
    """What is in one place of a scene."""

    name: str
    shade: str

    @property
    def sort(self) -> str:
        """Digit, latin or greek."""
        return SORTS[NAMES.index(self.name) // 4]


class Posed(NamedTuple):
    """One question with its true answer, and the answers that one might give."""

    text: str
    kind: str
    truth: str
    possible: Sequence[str]


def questions(
    *, image_size: int = 56, seed: int = 0, train_scenes: int = 1500, test_scenes: int = 300
) -> dict[str, Asked]:
    """Return train and test, five questions about each scene.

    Args:
        image_size: Height and width in pixels, an even number.
        seed: Of every draw.
        train_scenes: Training images.
        test_scenes: Test images.
    """
    scenes = {"train": train_scenes, "test": test_scenes}
    return {split: _split(split, count, image_size, seed) for split, count in scenes.items()}


def _split(split: str, count: int, image_size: int, seed: int) -> Asked:
    random = np.random.default_rng(seed_for(seed, "questions", split))
    images, asked = [], []
    for scene in range(count):
        wanted = NAMES[int(random.integers(len(NAMES)))]
        signs = _signs(random, wanted, is_there=scene % 2 == 0)
        images.append(drawn(signs, image_size, random))
        for number, posed in enumerate(_posed(signs, wanted, random)):
            said = _said(posed, random)
            most = Counter(said).most_common(1)[0][0]
            key = 10 * scene + number
            asked.append(Question(key, posed.text, scene, posed.kind, most, said))
    names = [f"{split} draw {scene}" for scene in range(count)]
    return Asked(asked, names, torch.from_numpy(np.stack(images))[:, None])


def _signs(random: np.random.Generator, wanted: str, is_there: bool) -> dict[str, Sign]:
    """Return the signs by place, at least one; a certain one is among them, or is not."""
    others = [name for name in NAMES if name != wanted]
    filled = random.random(len(PLACES)) >= EMPTY
    filled[random.integers(len(PLACES))] = True
    places = [place for place, there in zip(PLACES, filled, strict=True) if there]
    names = [others[n] for n in random.integers(len(others), size=len(places))]
    if is_there:
        names[random.integers(len(places))] = wanted
    shades = random.choice(list(SHADES), len(places)).tolist()
    return {place: Sign(*one) for place, *one in zip(places, names, shades, strict=True)}


def drawn(
    signs: dict[str, Sign], image_size: int, random: np.random.Generator
) -> UInt8[Array, "size size"]:
    half = image_size // 2
    image = np.zeros((image_size, image_size), np.uint8)
    for place, sign in signs.items():
        face = SHOWN[int(random.integers(len(SHOWN)))]
        row, column = divmod(PLACES.index(place), 2)
        glyph = draw(SIGNS[sign.name], face, half, upright(random), stroke=int(random.integers(3)))
        shaded = np.round(glyph * SHADES[sign.shade]).astype(np.uint8)
        image[half * row : half * (row + 1), half * column : half * (column + 1)] = shaded
    return image


def _posed(signs: dict[str, Sign], wanted: str, random: np.random.Generator) -> list[Posed]:
    """Return the five questions about a scene; the places that are asked about are not empty."""
    one, two, three = random.choice(list(signs), 3).tolist()
    counted = [*MANY, *SHADES][int(random.integers(len(MANY) + len(SHADES)))]
    many = MANY.get(counted, f"{counted} signs")
    number = sum(counted in (sign.sort, sign.shade) for sign in signs.values())
    is_grey = signs[three].shade == "grey"
    is_there = any(sign.name == wanted for sign in signs.values())
    return [
        Posed(f"what is at the {one}?", "other", signs[one].name, NAMES),
        Posed(f"what kind of sign is at the {two}?", "other", signs[two].sort, SORTS),
        Posed(f"is the sign at the {three} grey?", "yes/no", YES_NO[not is_grey], YES_NO),
        Posed(f"how many {many} are there?", "number", f"{number}", COUNTS),
        Posed(f"is there a {wanted}?", "yes/no", YES_NO[not is_there], YES_NO),
    ]


def _said(posed: Posed, random: np.random.Generator) -> tuple[str, ...]:
    """Return what ten annotators say."""
    agree = int(random.choice(AGREEMENT[0], p=AGREEMENT[1]))
    others = [answer for answer in posed.possible if answer != posed.truth]
    wrong = [others[n] for n in random.integers(len(others), size=10 - agree)]
    return (*[posed.truth] * agree, *wrong)
