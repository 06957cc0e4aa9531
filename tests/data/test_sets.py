"""A prepared set comes back as it was written; damage is named in one line."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from rectify.data.manifests import manifest, splits
from rectify.data.sets import (
    FileSet,
    ImageSet,
    load_set,
    load_sets,
    save_files,
    save_sets,
)
from rectify.results.declared import MANIFEST
from rectify.results.provenance import provenance
from rectify.results.tables import read_note, read_table

SOURCE = provenance(0, data="toy")


def image_set(items: int = 4, frames: tuple[int, ...] = (), seed: int = 0) -> ImageSet:
    """Return random images of two classes."""
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (items, *frames, 1, 6, 6), generator=draws, dtype=torch.uint8)
    sources = tuple(f"item {item}, seed {seed}" for item in range(items))
    return ImageSet(images, torch.arange(items) % 2, ("a", "b c"), sources)


@pytest.fixture
def folder(tmp_path):
    save_sets(tmp_path, {"train": image_set(), "test": image_set(2, seed=1)}, SOURCE)
    return tmp_path


@pytest.mark.parametrize("frames", [(), (3,)], ids=["images", "clips"])
def test_what_is_saved_is_loaded(tmp_path, frames):
    sets = {"train": image_set(5, frames), "test-c/noise/1": image_set(3, frames, 1)}
    save_sets(tmp_path, sets, SOURCE)
    assert splits(tmp_path) == list(sets)
    tests = dict(load_sets(tmp_path, "test"))
    assert list(tests) == ["test-c/noise/1"]
    assert torch.equal(tests["test-c/noise/1"].images, sets["test-c/noise/1"].images)
    for split, saved in sets.items():
        loaded = load_set(tmp_path, split)
        assert torch.equal(loaded.images, saved.images)
        assert loaded.labels.tolist() == saved.labels.tolist()
        assert (loaded.classes, loaded.sources) == (saved.classes, saved.sources)
        assert len(loaded) == len(saved)


def test_captions_are_the_names(tmp_path):
    labels, sources = torch.full((2,), -1), ("x", "y")
    images = ImageSet(image_set(2).images, labels, (), sources, ("a cat", 'a "dog", ä'))
    save_sets(tmp_path, {"pairs": images}, SOURCE)
    assert load_set(tmp_path, "pairs").captions == images.captions
    assert read_table(MANIFEST, tmp_path / "manifest.csv")["name"].tolist() == images.names


def test_the_manifest_lists_every_item_in_order(folder):
    listing = read_table(MANIFEST, folder / "manifest.csv")
    assert listing["item"].tolist() == list(range(6))
    assert listing["split"].tolist() == ["train"] * 4 + ["test"] * 2
    assert listing["name"].tolist() == ["a", "b c"] * 3
    facts = read_note(folder / "manifest.csv")["provenance"]["facts"]
    assert facts["data"] == "toy"
    written = (folder / "manifest.csv").read_bytes()
    assert facts["sha256"] == hashlib.sha256(written).hexdigest()


def test_a_split_that_was_changed_by_hand_is_refused(folder):
    path = folder / "manifest.csv"
    path.write_text(path.read_text().replace("train,0", "train,1", 1))
    with pytest.raises(ValueError, match=r"the frozen split must have the SHA-256") as caught:
        load_set(folder, "train")
    assert "\n" not in str(caught.value)


def test_the_same_set_gives_the_same_bytes(tmp_path):
    digests = []
    for name in ("one", "two"):
        save_sets(tmp_path / name, {"train": image_set(), "test": image_set(2)}, SOURCE)
        files = sorted((tmp_path / name).iterdir())
        assert [file.name for file in files] == [
            "arrays.safetensors",
            "manifest.csv",
            "manifest.csv.json",
        ]
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("final", [False, True])
def test_a_set_says_whether_its_images_have_their_final_size(tmp_path, final):
    save_sets(tmp_path, {"train": dataclasses.replace(image_set(), final_size=final)}, SOURCE)
    assert load_set(tmp_path, "train").final_size is final


def test_items_without_their_source_are_an_error_of_ours():
    with pytest.raises(AssertionError):
        ImageSet(image_set(3).images, torch.arange(3) % 2, ("a", "b"), ("x", "y"))


def test_an_unknown_split_is_named_with_the_known_ones(folder):
    with pytest.raises(
        ValueError, match=r"split must be one of train, test, got 'val'\."
    ) as caught:
        load_set(folder, "val")
    assert str(folder) in str(caught.value)


def test_a_missing_set_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"manifest\.csv: a manifest table must be here") as caught:
        load_set(tmp_path / "absent", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_cut_arrays_are_refused_in_one_line(folder, keep):
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    message = r"arrays\.safetensors: must be an intact safetensors file with split train, got "
    with pytest.raises(ValueError, match=message) as caught:
        load_set(folder, "train")
    assert "\n" not in str(caught.value)


def test_lost_arrays_are_refused(folder):
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(ValueError, match=r"must be an intact safetensors file"):
        load_set(folder, "train")


def test_arrays_of_another_preparation_are_refused(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    save_sets(other, {"train": image_set(5), "test": image_set(2)}, SOURCE)
    (other / "arrays.safetensors").replace(folder / "arrays.safetensors")
    with pytest.raises(ValueError, match=r"must list the same items of train, got others\."):
        load_set(folder, "train")


@pytest.fixture
def files(tmp_path):
    """Write images of several modes and sizes; return their folder and manifest."""
    folder = tmp_path / "files here"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a b.png")
    Image.fromarray(noise[:5, :, 0]).save(folder / "grey.png")
    Image.fromarray(noise).convert("P").save(folder / "palette.png", transparency=b"\x00\x80")
    Image.fromarray(noise).convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(noise).convert("CMYK").save(folder / "cmyk.jpg")
    names = ["a b.png", "grey.png", "palette.png", "alpha.png", "cmyk.jpg"]
    rows = [("train", 0, "a", name) for name in names[:4]] + [("test", 1, "b c", names[4])]
    return folder, manifest(rows), noise


def test_files_are_read_as_rgb_whatever_their_mode(files):
    folder, listing, noise = files
    images = FileSet(folder, listing, "train")
    assert len(images) == 4
    assert {images[item].mode for item in range(4)} == {"RGB"}
    assert np.array_equal(np.array(images[0]), noise)
    assert np.array_equal(np.array(images[1])[..., 2], noise[:5, :, 0])
    assert FileSet(folder, listing, "test")[0].size == (7, 9)


def test_a_prepared_set_of_files_finds_its_files(files, tmp_path):
    folder, listing, _ = files
    save_files(tmp_path / "out", folder, listing, SOURCE)
    assert splits(tmp_path / "out") == ["train", "test"]
    test = load_set(tmp_path / "out", "test")
    assert isinstance(test, FileSet)
    assert test.labels.tolist() == [1]
    assert (test.names, test.sources) == (["b c"], ("cmyk.jpg",))
    assert test[0].mode == "RGB"
    assert not (tmp_path / "out" / "arrays.safetensors").exists()
    assert SOURCE["facts"] == {"data": "toy"}
