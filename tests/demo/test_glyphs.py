"""Embedded classification sets: counts, splits by face, bias in training only, determinism."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from rectify.data.sets import ImageSet
from rectify.demo import glyphs
from rectify.demo.corruptions import CORRUPTIONS
from rectify.demo.fonts import FACES, characters, draw
from rectify.tasks.image_classification.readers import biased as biased_reader
from rectify.tasks.image_classification.readers import digits as digits_reader
from rectify.tasks.image_classification.readers import glyphs as glyphs_reader


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    return glyphs_reader.read()


@pytest.fixture(scope="module")
def biased() -> dict[str, ImageSet]:
    return biased_reader.read()


def faces(images: ImageSet) -> set[str]:
    """Return the faces that the items were drawn in."""
    return {source.split(",")[0] for source in images.sources}


def same(left: dict[str, ImageSet], right: dict[str, ImageSet]) -> bool:
    """Return whether two sets have the same splits with the same bytes and sources."""
    return list(left) == list(right) and all(
        torch.equal(left[split].images, right[split].images)
        and torch.equal(left[split].labels, right[split].labels)
        and left[split].sources == right[split].sources
        for split in left
    )


def test_there_are_100_classes_named_by_unicode(sets):
    classes = sets["train"].classes
    assert len(classes) == len(set(classes)) == 100
    assert classes[0] == "DIGIT TWO"
    assert all(unicodedata.lookup(name) in glyphs.CHARACTERS for name in classes)
    assert all(images.classes == classes for images in sets.values())


def test_every_face_has_every_character():
    assert all(characters(face) >= set(glyphs.CHARACTERS) for face in FACES)


def test_no_two_classes_are_the_same_picture():
    drawn = np.stack([[draw(c, f, 28) for c in glyphs.CHARACTERS] for f in FACES[::3]])
    flat = drawn.reshape(len(drawn), 100, -1).astype(float)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    cosine = np.einsum("fad,fbd->fab", flat, flat).mean(0)
    np.fill_diagonal(cosine, 0)
    assert cosine.max() < 0.97


def test_train_and_test_have_all_classes_equally_often(sets):
    assert Counter(sets["train"].labels.tolist()) == dict.fromkeys(range(100), 24)
    assert Counter(sets["test"].labels.tolist()) == dict.fromkeys(range(100), 8)


def test_images_are_square_one_channel_bytes(sets):
    for images in sets.values():
        assert images.images.shape[1:] == (1, 28, 28)
        assert images.images.dtype == torch.uint8


def test_train_and_test_share_no_face(sets):
    assert len(faces(sets["train"])) == 12
    assert len(faces(sets["test"])) == 4
    assert not faces(sets["train"]) & faces(sets["test"])


def test_no_test_image_is_a_training_image(sets):
    train = {image.numpy().tobytes() for image in sets["train"].images}
    assert not [image for image in sets["test"].images if image.numpy().tobytes() in train]


def test_the_family_of_test_r_is_absent_elsewhere(sets):
    assert all(face.startswith("Computer Modern") for face in faces(sets["test-r"]))
    assert not [face for face in faces(sets["train"]) | faces(sets["test"]) if "Modern" in face]
    assert len(sets["test-r"].labels.unique()) == 48


def test_each_corruption_has_five_severities_of_the_same_items(sets):
    names = {f"test-c/{name}/{severity}" for name in CORRUPTIONS for severity in range(1, 6)}
    assert {split for split in sets if split.startswith("test-c")} == names
    assert {sets[name].sources for name in names} == {sets["test-c/jpeg/1"].sources}
    assert sets["test-c/jpeg/1"].labels.tolist() == list(range(100))
    assert set(sets["test-c/jpeg/1"].sources) <= set(sets["test"].sources)


@pytest.mark.slow
def test_fewer_corrupted_images_are_some_of_all(sets):
    few, every = glyphs_reader.read(train_drawings=1, corrupted=25), sets
    for name in ("test-c/jpeg/1", "test-c/pixelate/5"):
        assert few[name].labels.tolist() == list(range(0, 100, 4))
        assert few[name].sources == every[name].sources[::4]
    assert len(glyphs_reader.read(train_drawings=1, corrupted=30)["test-c/pixelate/1"]) == 30


def test_without_shifted_sets_train_and_test_are_the_same(sets):
    plain = glyphs_reader.read(shifted_faces=0, corrupted=0)
    assert same(plain, {name: sets[name] for name in ("train", "test")})


def test_outlines_have_less_ink_than_the_test_images(sets):
    assert sets["test-sk"].images.float().mean() < sets["test"].images.float().mean()


def test_hard_cases_are_smaller_or_turned(sets):
    def turned_or_small(source: str) -> bool:
        _, angle, scale, _ = source.split(", ")
        return abs(float(angle.split()[1])) >= 7.9 or float(scale.split()[1]) <= 0.881

    assert all(map(turned_or_small, sets["test-a"].sources))
    assert not any(map(turned_or_small, sets["train"].sources + sets["test"].sources))


@pytest.mark.parametrize("reader", [digits_reader, biased_reader])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(reader):
    first = reader.read(image_size=20, seed=3)
    assert same(first, reader.read(image_size=20, seed=3))
    assert not same(first, reader.read(image_size=20, seed=4))


@pytest.mark.slow
def test_glyphs_are_the_same_twice_and_splits_do_not_depend_on_each_other(sets):
    again = glyphs_reader.read(train_drawings=1)
    assert len(again.pop("train")) == 1200
    assert same(again, {split: images for split, images in sets.items() if split != "train"})


@pytest.mark.slow
def test_sizes_are_arguments():
    small = glyphs_reader.read(image_size=21, train_drawings=1, test_drawings=1, shifted_faces=1)
    assert len(small["train"]) == 1200
    assert len(small["test"]) == 400
    assert len(small["test-a"]) == len(small["test-sk"]) == 100
    assert small["train"].images.shape[-2:] == (21, 21)


def test_digits_are_split_seven_to_three_in_every_class():
    sets = digits_reader.read()
    counts = Counter(load_digits().target.tolist())
    train, test = (Counter(sets[split].labels.tolist()) for split in ("train", "test"))
    assert train + test == counts
    assert all(train[digit] == round(0.7 * counts[digit]) for digit in range(10))
    assert not set(sets["train"].sources) & set(sets["test"].sources)


def test_digits_look_like_their_originals():
    sets = digits_reader.read(image_size=24)
    data, images = load_digits(), sets["test"]
    for image, label, source in zip(images.images, images.labels, images.sources, strict=True):
        original = int(source.split()[1])
        averaged = torch.nn.functional.avg_pool2d(image.float(), 3)[0] / 255 * 16  # (8, 8)
        assert label == data.target[original]
        assert np.corrcoef(averaged.flatten(), data.images[original].flatten())[0, 1] > 0.95


def style_shares(images: ImageSet) -> np.ndarray:
    """Return how often class i has style j, measured by the grey level of the corner."""
    levels = [background for _, background in glyphs.BIASED_STYLES]
    corners = images.images[:, 0, 0, 0].tolist()
    counts = np.zeros((6, 6))
    for label, corner in zip(images.labels.tolist(), corners, strict=True):
        counts[label, levels.index(corner)] += 1
    return counts / counts.sum(1, keepdims=True)


def test_the_bias_is_there_in_training(biased):
    shares = style_shares(biased["train"])
    assert np.diag(shares) == pytest.approx([0.95] * 6)
    assert shares[~np.eye(6, dtype=bool)] == pytest.approx([0.01] * 30, abs=0.005)


def test_the_bias_is_absent_in_the_test(biased):
    assert style_shares(biased["test"]) == pytest.approx((1 - np.eye(6)) / 5)


def test_the_face_goes_with_the_background(biased):
    pairs = {tuple(source.split(", ")[:2]) for source in biased["train"].sources}
    assert len(pairs) == 6


def test_without_bias_training_is_like_the_test():
    shares = style_shares(biased_reader.read(aligned=0.0)["train"])
    assert shares == pytest.approx((1 - np.eye(6)) / 5)
