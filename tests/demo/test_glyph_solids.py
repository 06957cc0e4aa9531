"""Letters as solids: the ink of their pictures, a thickness, a turn; held-out faces; names."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from rectify.data.clouds import CloudSet
from rectify.demo import glyph_solids as drawn
from rectify.demo.fonts import FACES, draw
from rectify.tasks.pairs.readers import glyph_solids as pairs_reader
from rectify.tasks.point_classification.readers import glyph_solids, scanobjectnn
from tests.helpers import cloud_trees as trees


@pytest.fixture(scope="module")
def sets() -> dict[str, CloudSet]:
    return glyph_solids.read(points=64, train_items=13, test_items=5)


def test_there_are_ten_letters_in_faces_that_training_has_not_seen(sets) -> None:
    assert len(drawn.CLASSES) == 10
    assert [unicodedata.lookup(name) for name in drawn.CLASSES] == list(drawn.CHARACTERS)
    faces = {}
    for split, items in (("train", 13), ("test", 5)):
        clouds = sets[split]
        assert clouds.points.shape == (10 * items, 64, 3)
        assert clouds.labels.bincount().tolist() == [items] * 10
        assert clouds.names[items] == drawn.CLASSES[1]
        faces[split] = {source.partition(",")[0] for source in clouds.sources}
    assert not faces["train"] & faces["test"]
    assert faces["train"] | faces["test"] == {face.name for face in FACES}


def turned_back(cloud: np.ndarray, angle: float) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return cloud @ np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def test_each_point_is_within_the_ink_and_the_thickness() -> None:
    """The angle is the one at which all points are within the thickness."""
    glyph = draw("K", FACES[0], drawn.SIZE)
    for seed in range(5):
        cloud = drawn.extruded(glyph, 500, np.random.default_rng(seed))
        angles = np.linspace(-drawn.TURN, drawn.TURN, 1401)
        depths = [np.ptp(turned_back(cloud, angle)[:, 1]) for angle in angles]
        angle = angles[int(np.argmin(depths))]
        back = turned_back(cloud, angle)
        assert drawn.THICKNESS * 0.95 < np.ptp(back[:, 1]) < drawn.THICKNESS * 1.02
        columns, rows = (back[:, 0] + 0.5) * drawn.SIZE, (0.5 - back[:, 2]) * drawn.SIZE
        ink = glyph[rows.astype(int).clip(0, 55), columns.astype(int).clip(0, 55)]
        assert (ink > 0).mean() > 0.97  # the angle is known to a thousandth


def test_points_are_even_over_the_ink() -> None:
    glyph = np.zeros((drawn.SIZE, drawn.SIZE), np.uint8)
    glyph[:14], glyph[28:42] = 200, 100
    heights = drawn.extruded(glyph, 20_000, np.random.default_rng(0))[:, 2]
    assert np.mean(heights > 0.25) == pytest.approx(2 / 3, abs=0.015)
    assert np.mean((heights > -0.25) & (heights < 0)) == pytest.approx(1 / 3, abs=0.015)


def test_the_same_seed_gives_the_same_clouds() -> None:
    sizes = {"points": 16, "train_items": 2, "test_items": 1}
    one, again, other = (
        glyph_solids.read(seed=seed, **sizes)["train"].points for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_pairs_are_distinct_characters_with_their_names() -> None:
    found = pairs_reader.read(points=32, items=40)["pairs"]
    assert len(set(found.captions)) == 40
    assert found.labels.unique().tolist() == [-1]
    for caption, source in zip(found.captions, found.sources, strict=True):
        character = unicodedata.lookup(caption.upper())
        assert source == f"U+{ord(character):04X} in {FACES[0].name}"
    assert found.points.shape == (40, 32, 3)
    assert pairs_reader.read(points=32, items=10)["pairs"].captions == found.captions[:10]


def test_they_are_read_back_as_scanobjectnn(tmp_path: Path) -> None:
    """Its fifteen classes have other names; the numbers are the same."""
    made = glyph_solids.read(points=2048, train_items=2, test_items=1)
    known = {
        split: CloudSet(
            clouds.points,
            clouds.labels,
            clouds.classes,
            clouds.sources,
            torch.ones(clouds.points.shape[:2], dtype=torch.bool),
        )
        for split, clouds in made.items()
    }
    trees.write_scanobjectnn(tmp_path, "only", known)
    found = scanobjectnn.read(tmp_path, variant="only")
    for split, clouds in made.items():
        assert torch.equal(found[split].points, clouds.points)
        assert torch.equal(found[split].labels, clouds.labels)
