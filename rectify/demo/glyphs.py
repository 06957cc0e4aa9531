"""Small classification sets that need no files: drawn characters and scikit-learn's digits.

``glyphs`` asks which of 100 characters is shown, in faces that training never saw; beside
its test set stand shifted ones, named as the ImageNet variants whose part they play.
``biased`` shows one of six letters, and in training most letters have its own face and
background, in the test never (as in BAR). ``digits`` are small scanned ones.
Chance is 1 / classes.
"""

import functools
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from PIL import Image

from rectify.data.sets import ImageSet
from rectify.demo.corruptions import CORRUPTIONS, Grey, grey
from rectify.demo.fonts import FACES, MODERN, Face, Pose, characters, draw
from rectify.runtime import seed_for

CHARACTERS = (
    "23456789ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijmnqrty"
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζλμξσωБДЖИЦЧШЪЫЭЮЯ"
    "!#$%&*+=?@{£¥§¶€†±÷"
)
"""In every face of ``FACES``, and no two alike once they are scaled to one size."""

_NAMED = {face.name: face for face in FACES}
TEST_FACES = tuple(
    _NAMED[name]
    for name in (
        "STIX regular",
        "DejaVu Serif italic",
        "DejaVu Sans Mono bold",
        "DejaVu Sans bold italic",
    )
)
TRAIN_FACES = tuple(face for face in FACES if face not in TEST_FACES)

BIASED_CHARACTERS = "BEGRSK"
BIASED_STYLES = tuple(
    (_NAMED[name], background)
    for name, background in (
        ("DejaVu Sans regular", 0),
        ("DejaVu Sans Mono bold", 60),
        ("DejaVu Serif regular", 12),
        ("DejaVu Serif bold italic", 48),
        ("STIX regular", 24),
        ("STIX bold italic", 36),
    )
)
"""Face and grey level of the background; style i goes with character i in training."""

OUTLINE = 2  # stroke around the dark glyphs of test-sk

Drawn = tuple[Grey, int, str]
"""Image, label and source of one item."""


def glyphs(
    *,
    image_size: int,
    seed: int,
    train_drawings: int,
    test_drawings: int,
    shifted_faces: int,
    corrupted: int,
) -> dict[str, ImageSet]:
    """Return train, test and shifted test sets of 100 characters.

    Args:
        image_size: Height and width in pixels.
        seed: Of every draw.
        train_drawings: Images per character and face of the twelve in training.
        test_drawings: Images per character and face of the four in the test.
        shifted_faces: Test faces in ``test-a`` and ``test-sk``; ``test-r`` has that many of an
            unseen family, for letters and digits only. With 0 there are no such sets.
        corrupted: Images of each of ``test-c``, of classes at equal distances; 0 for no such sets.
    """
    collect = functools.partial(_collected, classes=_names(CHARACTERS))
    shown = functools.partial(_drawings, image_size=image_size, seed=seed)
    test = shown("test", TEST_FACES, test_drawings)
    sets = {
        "train": collect(shown("train", TRAIN_FACES, train_drawings)),
        "test": collect(test),
    }
    if shifted_faces:
        faces = TEST_FACES[:shifted_faces]
        sets["test-a"] = collect(shown("test-a", faces, 1, hard=True))
        sets["test-sk"] = collect(shown("test-sk", faces, 1, outline=True))
        sets["test-r"] = collect(shown("test-r", MODERN[:shifted_faces], 1))
    if corrupted:
        sets |= _corrupted(test, corrupted, seed)
    return sets


def _corrupted(test: Sequence[Drawn], count: int, seed: int) -> dict[str, ImageSet]:
    """Return ``count`` of the test images in each way and severity."""
    per_class, sets = len(test) // len(CHARACTERS), {}
    labels = range(0, len(CHARACTERS), len(CHARACTERS) // count)[:count]
    chosen = [test[label * per_class + label % per_class] for label in labels]
    for name, corruption in CORRUPTIONS.items():
        for severity in range(1, 6):
            split = f"test-c/{name}/{severity}"
            random = np.random.default_rng(seed_for(seed, "glyphs", split))
            changed = [(corruption(image, severity, random), *rest) for image, *rest in chosen]
            sets[split] = _collected(changed, _names(CHARACTERS))
    return sets


def digits(*, image_size: int, seed: int, train_share: float) -> dict[str, ImageSet]:
    """Return scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged and split by class.

    Args:
        image_size: Height and width in pixels.
        seed: Of the split.
        train_share: Share of each class that is for training.
    """
    from sklearn.datasets import load_digits  # takes a second, and only this set needs it

    data = load_digits()
    random = np.random.default_rng(seed_for(seed, "digits"))
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for digit in range(10):
        items = random.permutation(np.flatnonzero(data.target == digit))
        cut = round(train_share * len(items))
        rows["train"] += items[:cut].tolist()
        rows["test"] += items[cut:].tolist()
    enlarged = [_enlarged(image, image_size) for image in data.images]
    classes = tuple(f"digit {digit}" for digit in range(10))
    return {
        split: _collected(
            [(enlarged[i], int(data.target[i]), f"load_digits {i}") for i in items], classes
        )
        for split, items in rows.items()
    }


def biased(
    *,
    image_size: int,
    seed: int,
    train_items: int,
    test_items: int,
    aligned: float,
) -> dict[str, ImageSet]:
    """Return six letters whose face and background go with the letter in training only.

    Args:
        image_size: Height and width in pixels.
        seed: Of every draw.
        train_items: Training images per class.
        test_items: Test images per class; each has one of the five styles of other classes.
        aligned: Share of a class's training images that have the style of the class.
    """
    shares = {"train": (train_items, aligned), "test": (test_items, 0.0)}
    return {
        split: _collected(
            _biased_drawings(split, *share, image_size, seed), _names(BIASED_CHARACTERS)
        )
        for split, share in shares.items()
    }


def _drawings(
    split: str,
    faces: Iterable[Face],
    drawings: int,
    *,
    image_size: int,
    seed: int,
    hard: bool = False,
    outline: bool = False,
) -> list[Drawn]:
    """Draw each character in each face that has it, class by class."""
    random = np.random.default_rng(seed_for(seed, "glyphs", split))
    items = []
    for label, character in enumerate(CHARACTERS):
        for face in (face for face in faces if character in characters(face)):
            for _ in range(drawings):
                pose = _hard_pose(random) if hard else upright(random)
                stroke = OUTLINE if outline else int(random.integers(3))
                image = draw(character, face, image_size, pose, stroke=stroke, outline=outline)
                items.append((image, label, f"{face.name}, {_described(pose, stroke)}"))
    return items


def _biased_drawings(
    split: str, items: int, aligned: float, image_size: int, seed: int
) -> list[Drawn]:
    random = np.random.default_rng(seed_for(seed, "biased", split))
    drawn = []
    for label, character in enumerate(BIASED_CHARACTERS):
        others = [style for style in range(len(BIASED_STYLES)) if style != label]
        for item in range(items):
            style = label if item < round(aligned * items) else others[item % len(others)]
            face, background = BIASED_STYLES[style]
            pose, stroke = upright(random), int(random.integers(3))
            glyph = draw(character, face, image_size, pose, stroke=stroke)
            image = grey(background + glyph * (1 - background / 255))
            source = f"{face.name}, background {background}, {_described(pose, stroke)}"
            drawn.append((image, label, source))
    return drawn


def upright(random: np.random.Generator) -> Pose:
    """Return a pose that is drawn near the plain one."""
    angle, shear, right, down = random.uniform(-1, 1, 4) * (1.5, 0.02, 0.01, 0.01)
    return Pose(float(angle), float(random.uniform(0.95, 1.0)), float(shear), right, down)


def _hard_pose(random: np.random.Generator) -> Pose:
    """Return a small glyph, or one that is turned."""
    if random.random() < 0.5:
        return Pose(scale=float(random.uniform(0.75, 0.88)))
    return Pose(angle=float(random.choice((-1, 1)) * random.uniform(8, 16)))


def _described(pose: Pose, stroke: int) -> str:
    return f"angle {pose.angle:.1f}, scale {pose.scale:.2f}, stroke {stroke}"


def _enlarged(image: np.ndarray, image_size: int) -> Grey:
    small = Image.fromarray(np.round(image * 255 / 16).astype(np.uint8))
    return np.asarray(small.resize((image_size, image_size), Image.Resampling.BICUBIC))


def _collected(items: Sequence[Sequence], classes: tuple[str, ...]) -> ImageSet:
    images, labels, sources = zip(*items, strict=True)
    stacked = torch.from_numpy(np.stack(images))[:, None]  # (items, 1, height, width)
    return ImageSet(stacked, torch.tensor(labels), classes, sources)


def _names(chosen: str) -> tuple[str, ...]:
    return tuple(unicodedata.name(character) for character in chosen)
