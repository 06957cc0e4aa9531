"""Pairs whose images are equal are refused: copies look like agreement of unrelated models."""

import numpy as np
import pytest
import torch
from PIL import Image

from rectify.similarity import calibrated, mutual_knn
from rectify.tasks import preparation_of, settings_of
from tests.helpers.feature_spaces import features
from tests.helpers.trees import picture

PAIRS = settings_of("pairs")


def prepared(**entry):
    return preparation_of("pairs")("wit", PAIRS.model_validate({"task": "pairs"} | entry), None, 2)


def write_pairs(folder, names: dict[str, int]):
    """Write images of one colour each, and their list."""
    for name, value in names.items():
        picture(folder / name, value)
    lines = "".join(f"{name},caption {name}\n" for name in names)
    (folder / "captions.csv").write_text(f"file,caption\n{lines}")
    return {"reader": "captions", "folder": f"{folder}"}


def test_images_that_are_equal_by_content_are_named(tmp_path):
    entry = write_pairs(tmp_path, {"a.png": 1, "b.png": 2, "in/c.png": 1, "d.png": 1})
    message = r"wit: all items of pairs must differ, got in/c\.png equal to a\.png \(2 such\)"
    with pytest.raises(ValueError, match=message) as caught:
        prepared(**entry)
    assert "\n" not in str(caught.value)
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    with (tmp_path / "captions.csv").open("a") as file:
        file.write("link.png,again\n")
    picture(tmp_path / "in/c.png", 3)
    picture(tmp_path / "d.png", 4)
    with pytest.raises(ValueError, match=r"got link\.png equal to b\.png \(1 such\)"):
        prepared(**entry)


def test_captions_may_be_equal_as_those_of_a_labelled_set_are(tmp_path):
    entry = write_pairs(tmp_path, {"a.png": 1, "b.png": 2})
    (tmp_path / "captions.csv").write_text("file,caption\na.png,a dog\nb.png,a dog\n")
    assert prepared(**entry).listing["name"].tolist() == ["a dog", "a dog"]


def test_pairs_in_memory_are_compared_too(monkeypatch):
    from rectify.demo import pairs as drawn
    from rectify.tasks.pairs.readers import pairs as reader

    made = drawn.pairs(items=12, image_size=16, seed=0)
    made["pairs"].images[7] = made["pairs"].images[3]
    monkeypatch.setattr(reader, "read", lambda *, image_size=28, seed=0, items=1024: made)
    sources = made["pairs"].sources
    with pytest.raises(ValueError, match="all items of pairs must differ") as caught:
        prepared(reader="pairs", image_size=16)
    assert f"got {sources[7]} equal to {sources[3]} (1 such)" in str(caught.value)


def test_copies_would_look_like_agreement_of_unrelated_models():
    """What is refused: five captions of each image, two models that have nothing in common."""
    images, texts = features(60, 16), features(60, 16, seed=1)
    copies = torch.arange(300) // 5
    left = images[copies] + 0.0
    right = texts[copies] + 0.3 * features(300, 16, seed=2)
    single = mutual_knn(images, texts, 4)
    assert single < 0.15
    assert mutual_knn(left, right, 4) > 0.8
    assert calibrated([left], [right], 4, 39).score.item() > 0.8
    assert calibrated([images], [texts], 4, 39).score.item() < 0.1


def test_images_stored_in_other_formats_are_read_alike(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    for name in ("a.png", "b.bmp"):
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "captions.csv").write_text("file,caption\na.png,x\nb.bmp,y\n")
    entry = {"reader": "captions", "folder": f"{tmp_path}"}
    with pytest.raises(ValueError, match=r"got b\.bmp equal to a\.png \(1 such\)"):
        prepared(**entry)
