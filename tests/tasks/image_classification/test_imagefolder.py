"""Labelled images in folders of every usual shape, and what is said where none is there."""

import logging
from collections import Counter
from pathlib import Path

import pytest

from rectify.tasks.image_classification.readers import imagefolder
from rectify.tasks.splits import both, divided, role, role_within
from tests.helpers.trees import picture

CLASSES = ("daisy", "rose", "über tulip")


def write(folder: Path, *places: str, items: int = 10, suffix: str = ".jpg") -> Path:
    """Write a tree of classes at each place."""
    for place in places:
        for label, name in enumerate(CLASSES):
            for item in range(items):
                picture(folder / place / name / f"{item}{suffix}", 40 * label + item)
    return folder


def counts(rows) -> dict[str, int]:
    return dict(Counter(row.split for row in rows))


@pytest.mark.parametrize("train", ["train", "Training"])
@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "dev", "Test", "testing"])
def test_a_set_with_two_splits_keeps_them(tmp_path, train, test):
    write(tmp_path, train)
    write(tmp_path, test, items=2)
    rows = imagefolder.read(tmp_path)
    assert counts(rows) == {"train": 30, "test": 6}
    assert rows[0] == ("train", 0, "daisy", f"{train}/daisy/0.jpg")
    assert rows[-1] == ("test", 2, "über tulip", f"{test}/über tulip/1.jpg")
    assert all((tmp_path / row.source).is_file() for row in rows)
    assert all(row.label == CLASSES.index(row.name) for row in rows)


def test_the_test_is_test_where_validation_is_there_too(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(write(write(tmp_path, "train"), "val", items=3), "test", items=2)
    assert counts(imagefolder.read(tmp_path)) == {"train": 30, "test": 6}
    for file in (tmp_path / "test").rglob("*.jpg"):  # as where its labels are kept secret
        file.rename(tmp_path / "test" / f"{file.parent.name} {file.name}")
    for path in (tmp_path / "test").iterdir():
        if path.is_dir():
            path.rmdir()
    assert counts(imagefolder.read(tmp_path)) == {"train": 30, "test": 9}
    assert "left out, no split with folders of classes: test" in caplog.text


@pytest.mark.parametrize("place", [".", "train", "val", "validation"])
def test_a_set_without_a_test_is_divided_class_by_class(tmp_path, place):
    write(tmp_path, place)
    rows = imagefolder.read(tmp_path)
    assert Counter((row.split, row.name) for row in rows) == {
        (split, name): items for split, items in (("train", 8), ("test", 2)) for name in CLASSES
    }
    assert {Path(row.source) for row in rows} == {
        path.relative_to(tmp_path) for path in tmp_path.rglob("*.jpg")
    }
    assert rows == imagefolder.read(tmp_path, seed=0, train_share=0.8)
    assert [row.split for row in rows] == ["train"] * 24 + ["test"] * 6


def test_the_division_depends_on_seed_and_share_alone(tmp_path):
    write(tmp_path, ".")
    rows, other = imagefolder.read(tmp_path), imagefolder.read(tmp_path, seed=1)
    assert counts(rows) == counts(other)
    assert {row for row in rows if row.split == "test"} != {r for r in other if r.split == "test"}
    assert counts(imagefolder.read(tmp_path, train_share=0.5)) == {"train": 15, "test": 15}


def test_a_class_keeps_its_division_when_another_comes(tmp_path):
    before = imagefolder.read(write(tmp_path, "."))
    for item in range(4):
        picture(tmp_path / "aster" / f"{item}.jpg")
    after = [row for row in imagefolder.read(tmp_path) if row.name != "aster"]
    assert [(row.split, row.source) for row in before] == [(row[0], row[3]) for row in after]
    assert [row.label + 1 for row in before] == [row.label for row in after]


def test_each_item_is_as_likely_to_be_for_training(tmp_path):
    from rectify.tasks.readers import Row

    rows = [Row("", 0, "a", f"{item}") for item in range(10)]
    taken = Counter(
        row.source
        for seed in range(400)
        for row in divided(tmp_path, rows, seed, 0.3)
        if row.split == "train"
    )
    assert sum(taken.values()) == 1200
    assert all(abs(taken[f"{item}"] - 120) < 45 for item in range(10))


def test_a_class_may_be_called_as_a_split(tmp_path):
    for name in ("bus", "train"):
        for item in range(5):
            picture(tmp_path / name / f"{item}.png")
    rows = imagefolder.read(tmp_path)
    assert counts(rows) == {"train": 8, "test": 2}
    assert {row.name for row in rows} == {"bus", "train"}


def test_other_folders_and_hidden_ones_are_no_classes(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, "train", "test")
    picture(tmp_path / "annotations" / "a.png")
    picture(tmp_path / ".cache" / "a.png")
    picture(tmp_path / "train" / ".ipynb_checkpoints" / "a.png")
    picture(tmp_path / "train" / "rose" / "._1.jpg")
    assert counts(imagefolder.read(tmp_path)) == {"train": 30, "test": 30}
    assert "left out, no split with folders of classes: annotations" in caplog.text


@pytest.mark.parametrize("suffix", [".tif", ".TIFF", ".ppm", ".png", ".JPEG", ".webp", ".bmp"])
def test_images_of_the_usual_suffixes_are_read(tmp_path, suffix):
    assert counts(imagefolder.read(write(tmp_path, ".", items=5, suffix=suffix))) == {
        "train": 12,
        "test": 3,
    }


def test_suffixes_that_are_not_read_are_named(tmp_path):
    write(tmp_path, "train", "val")
    for file in (tmp_path / "train" / "rose").iterdir():
        file.rename(file.with_suffix(".heic"))
    (tmp_path / "val" / "readme").write_text("x")
    (tmp_path / "val" / "a.gif").write_text("x")
    message = (
        r"all 3 classes must have images in train, got none for 1: rose, and files that are not "
        r"read: 10 of \.heic, 1 of (no suffix|\.gif), 1 of (no suffix|\.gif)\. Complete the folder"
    )
    with pytest.raises(ValueError, match=message) as caught:
        imagefolder.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("places", "sizes", "message"),
    [
        (["flowers/rose/a.jpg"], {}, r"one folder of images per class, got folders in flowers\."),
        (["train/a.jpg", "test/b.jpg"], {}, r"one folder of images per class, got none in test, "),
        (["a.jpg"], {}, r"must hold images of every class, got no class at all\. Unpack"),
        (["test/a/1.jpg", "val/a/1.jpg"], {}, r"must have a split train, got test, validation\."),
        (["train/a/1.jpg", "Train/a/1.jpg", "val/a/1.jpg"], {}, "each split must be there once"),
        (["train/a/1.jpg", "test/b/1.jpg"], {}, r"class must be one of the 1 in training, got 'b'"),
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], {}, r"images in (train|test), got none for 1: b"),
        (["train/a/1.jpg", "test/a/1.jpg"], {"seed": 1}, "seed must not be given for a set with a"),
        (["train/a/1.jpg", "test/a/1.jpg"], {"train_share": 0.5}, "train_share must not be given"),
        (
            ["a/1.jpg", "a/2.jpg"],
            {"train_share": 1.0},
            r"between 0 and 1, got 1\.0\. Correct",
        ),
    ],
)
def test_a_tree_of_another_shape_is_one_line(tmp_path, places, sizes, message):
    for place in places:
        picture(tmp_path / "set" / place)
    with pytest.raises(ValueError, match=message) as caught:
        imagefolder.read(tmp_path / "set", **sizes)
    assert str(caught.value).startswith(f"{tmp_path / 'set'}")
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"must hold the data set, got no .*nowhere"):
        imagefolder.read(tmp_path / "nowhere")


def test_the_names_of_splits():
    assert [role(name) for name in ("train", "Valid", "TEST", "rose", "training_set")] == [
        "train", "validation", "test", None, None,
    ]  # fmt: skip
    assert [
        role_within(name)
        for name in ("train-00000-of-00002", "data_val", "testing.1", "contest", "trains", "dev")
    ] == ["train", "validation", "test", None, None, "validation"]
    assert both("x", {"train": 1, "validation": 2}) == (1, 2)
    assert both("x", {"train": 1, "validation": 2, "test": 3}) == (1, 3)
    assert both("x", {"validation": 2}) == (2, None)
