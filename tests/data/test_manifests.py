"""Manifests: counts, classes, and the numbers of the classes."""

import pytest

from rectify.data.manifests import (
    check_same_labels,
    class_names,
    counts,
    label_order,
    manifest,
    without,
    write_listing,
)
from rectify.results.provenance import provenance

ROWS = [
    ("train", 1, "dog", "a.png"),
    ("train", 0, "cat", "b.png"),
    ("test", 0, "cat", "c.png"),
    ("test-c/fog/1", 1, "dog", "d.png"),
    ("test-c/fog/2", 1, "dog", "e.png"),
]


def write(folder, rows):
    write_listing(folder, manifest(rows), provenance())
    return folder


def test_a_manifest_numbers_its_rows_and_counts_conditions_together():
    listing = manifest(ROWS)
    assert listing["item"].tolist() == [0, 1, 2, 3, 4]
    assert counts(listing) == {"train": 2, "test": 1, "test-c": 2}
    assert class_names(listing) == ["cat", "dog"]
    assert class_names(manifest([("pairs", -1, "a caption", "x")])) == []


def test_items_that_are_left_out_leave_no_gap():
    listing = without(manifest(ROWS), ["b.png", "d.png"])
    assert listing["source"].tolist() == ["a.png", "c.png", "e.png"]
    assert listing["item"].tolist() == [0, 1, 2]


def test_the_order_of_labels_follows_the_training_split_alone(tmp_path):
    first = label_order(write(tmp_path / "one", ROWS))
    assert label_order(write(tmp_path / "two", ROWS[:3][::-1])) == first
    swapped = [(split, 1 - label, name, source) for split, label, name, source in ROWS]
    assert label_order(write(tmp_path / "three", swapped)) != first
    named = provenance(classes=["cat", "dog"])  # as the command prepare-data notes them
    write_listing(tmp_path / "four", manifest(ROWS), named)
    assert label_order(tmp_path / "four") == first


def test_a_shifted_set_must_number_its_classes_as_training_does(tmp_path):
    folder = write(tmp_path / "set", ROWS)
    check_same_labels(folder, write(tmp_path / "fewer", [("test-r", 1, "dog", "x.png")]))
    other = write(tmp_path / "other", [("test-r", 0, "dog", "x.png")])
    with pytest.raises(ValueError, match=r"other: each class must have .* got 0 for dog") as caught:
        check_same_labels(folder, other)
    assert "\n" not in str(caught.value)
