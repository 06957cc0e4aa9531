"""Characters as point clouds: the ink of a glyph, extruded, and turned about the vertical axis.

Ten letters are classes, in faces of which the test has others than training; chance is 1 / 10.
Pairs are the characters of ``rectify.demo.pairs`` with their Unicode names. Nothing is around the
letters, so these clouds have no masks.
"""

import unicodedata

import numpy as np
import torch
from jaxtyping import Float64

from rectify.data.clouds import CloudSet
from rectify.data.pairs import SPLIT
from rectify.demo.corruptions import Grey
from rectify.demo.fonts import draw
from rectify.demo.glyphs import TEST_FACES, TRAIN_FACES, upright
from rectify.demo.pairs import caption, pictures, source
from rectify.runtime import seed_for

CHARACTERS = "AEHKMRSTXZ"
CLASSES = tuple(unicodedata.name(character) for character in CHARACTERS)
SIZE = 56  # pixels of a glyph before it is extruded
THICKNESS = 0.3  # height and width of the canvas are 1
TURN = 0.7  # radians to either side

Cloud = Float64[np.ndarray, "points 3"]


def glyph_solids(
    *, points: int, seed: int, train_items: int, test_items: int
) -> dict[str, CloudSet]:
    """Return train and test.

    Args:
        points: Of a cloud.
        seed: Of every draw.
        train_items: Training clouds per character.
        test_items: Test clouds per character.
    """
    return {
        split: _split(split, items, points, seed)
        for split, items in (("train", train_items), ("test", test_items))
    }


def glyph_solid_pairs(*, points: int, seed: int, items: int) -> dict[str, CloudSet]:
    """Return distinct characters with their names, in the order of ``rectify.demo.pairs``.

    Args:
        points: Of a cloud.
        seed: Of every draw.
        items: Characters.

    Raises:
        ValueError: If the font has fewer characters.
    """
    random = np.random.default_rng(seed_for(seed, "glyph-solids", SPLIT))
    drawn = pictures(image_size=SIZE, seed=seed, items=items)
    clouds = [extruded(image, points, random) for image in drawn.values()]
    names, sources = (tuple(map(said, drawn)) for said in (caption, source))
    return {SPLIT: CloudSet(_stacked(clouds), torch.full((items,), -1), (), sources, None, names)}


def extruded(glyph: Grey, points: int, random: np.random.Generator) -> Cloud:
    """Return points of a glyph, even over its ink and its thickness, turned at random.

    Args:
        glyph: White on black; a grey pixel has fewer points.
        points: Of the cloud.
        random: Draws them.
    """
    ink = glyph / glyph.sum()
    rows, columns = np.divmod(random.choice(glyph.size, points, p=ink.ravel()), glyph.shape[1])
    down, right = ((place + random.random(points)) / SIZE - 0.5 for place in (rows, columns))
    depth = THICKNESS * (random.random(points) - 0.5)
    angle = random.uniform(-TURN, TURN)
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([cosine * right - sine * depth, sine * right + cosine * depth, -down], 1)


def _split(split: str, items: int, points: int, seed: int) -> CloudSet:
    random = np.random.default_rng(seed_for(seed, "glyph-solids", split))
    faces = {"train": TRAIN_FACES, "test": TEST_FACES}[split]
    clouds, sources = [], []
    for character in CHARACTERS:
        for item in range(items):
            face = faces[item % len(faces)]
            glyph = draw(character, face, SIZE, upright(random), stroke=int(random.integers(3)))
            clouds.append(extruded(glyph, points, random))
            sources.append(f"{face.name}, draw {item}")
    labels = torch.arange(len(CHARACTERS)).repeat_interleave(items)
    return CloudSet(_stacked(clouds), labels, CLASSES, tuple(sources))


def _stacked(clouds: list[Cloud]) -> torch.Tensor:
    return torch.from_numpy(np.stack(clouds).astype(np.float32))
