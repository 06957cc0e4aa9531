"""Images that are made small once, against those in their files."""

import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rectify.__main__ import main
from rectify.data import packed
from rectify.data.images import read_image
from rectify.data.manifests import LISTING
from rectify.data.sets import load_set
from rectify.results.tables import read_note
from rectify.tasks.image_classification.augment import evaluation_transform


def smooth(seed: int, width: int, height: int) -> Image.Image:
    """Return a picture as smooth as a photograph, which JPEG keeps nearly as it is."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def tree(folder):
    """Write two classes of each split, images of several shapes and formats."""
    for split, count in (("train", 4), ("test", 2)):
        for label in ("ant", "bee"):
            place = folder / split / label
            place.mkdir(parents=True)
            for item in range(count):
                width, height = ((120, 80), (72, 144), (96, 96), (40, 24))[item]
                image = smooth(
                    100 * (label == "bee") + 10 * (split == "test") + item, width, height
                )
                image.save(place / f"{item}.{'png' if item % 2 else 'jpg'}", quality=95)
    return folder


def prepare(output, files, **more) -> int:
    given = {"reader": "imagefolder", "folder": f"{files}", "classes": 2, "image_size": 32} | more
    words = ["--settings", json.dumps(given), "--threads", "2", "--folder", f"{output}"]
    return main(["prepare-data", "--data", "flat", *words])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Return the same set, left in its files and packed."""
    place = tmp_path_factory.mktemp("packed")
    files = tree(place / "files")
    assert prepare(place / "plain", files) == 0
    assert prepare(place / "packed", files, stored_side=48) == 0
    return place / "plain", place / "packed"


def test_large_images_are_resized_and_small_ones_keep_their_bytes(both):
    plain, small = (load_set(folder, "train") for folder in both)
    assert len(plain) == len(small) == 8
    for item, source in enumerate(plain.sources):
        stored, original = small[item], read_image(plain.folder / source)
        if min(original.size) <= 48:
            assert np.array_equal(np.asarray(stored), np.asarray(original))
            continue
        factor = 48 / min(original.size)
        assert stored.size == tuple(int(side * factor + 1e-9) for side in original.size)
        expected = np.asarray(original.resize(stored.size, Image.Resampling.BICUBIC), dtype=float)
        assert np.abs(np.asarray(stored) - expected).mean() < 3  # what JPEG loses


def test_everything_but_the_pixels_is_as_before(both):
    plain, small = both
    assert (plain / LISTING).read_bytes() == (small / LISTING).read_bytes()
    for split in ("train", "test"):
        left, right = (load_set(folder, split) for folder in both)
        assert (left.sources, left.names) == (right.sources, right.names)
        assert left.labels.tolist() == right.labels.tolist()
    assert read_note(small / LISTING)["provenance"]["facts"]["settings"]["stored_side"] == 48


def test_a_model_sees_nearly_the_same_test_image(both):
    transform = evaluation_transform(32, 0.875)
    for split in ("train", "test"):
        plain, small = (load_set(folder, split) for folder in both)
        for item in range(len(plain)):
            left, right = (transform(items[item]).float() for items in (plain, small))
            assert (left - right).abs().mean() < 2
            assert all(
                (left - transform(plain[other]).float()).abs().mean() > 8
                for other in range(len(plain))
                if other != item
            )


def test_the_file_is_a_stream_that_others_read(both):
    with pa.memory_map(f"{both[1] / packed.PACKED}") as file:
        table = pa.ipc.open_stream(file).read_all()
    assert table.num_rows == 12
    last = load_set(both[1], "test")[3]
    stored = Image.open(io.BytesIO(table["image"][11].as_py()))
    assert np.array_equal(np.asarray(stored.convert("RGB")), np.asarray(last))


def test_a_share_of_a_set_is_packed_alone(tmp_path):
    files = tree(tmp_path / "files")
    assert prepare(tmp_path / "plain", files, fraction=0.5) == 0
    assert prepare(tmp_path / "packed", files, fraction=0.5, stored_side=200) == 0
    plain, small = (load_set(tmp_path / name, "test") for name in ("plain", "packed"))
    for item in range(len(plain)):  # none is larger, so each is as it was
        assert np.array_equal(np.asarray(plain[item]), np.asarray(small[item]))


def test_a_set_that_is_no_longer_packed_leaves_nothing(tmp_path):
    files = tree(tmp_path / "files")
    assert prepare(tmp_path / "set", files, stored_side=48) == 0
    assert (tmp_path / "set" / packed.PACKED).is_file()
    assert prepare(tmp_path / "set", files) == 0
    assert not (tmp_path / "set" / packed.PACKED).exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_a_damaged_file_is_named(tmp_path, damage):
    assert prepare(tmp_path / "set", tree(tmp_path / "files"), stored_side=48) == 0
    file = tmp_path / "set" / packed.PACKED
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:2000] if damage == "cut" else b"no table")
    with pytest.raises(
        ValueError, match=r"set/images\.arrow.*must be an intact image, got"
    ) as error:
        load_set(tmp_path / "set", "test")[0]
    assert "\n" not in f"{error.value}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stored_side": 16}, "stored_side must be at least image_size, 32, got 16. Raise it."),
        (
            {"stored_side": 48, "reader": "digits", "folder": None, "classes": 10},
            "stored_side must be of images in files, got 48 for reader digits, whose images are "
            "kept in memory. Take the key away.",
        ),
    ],
)
def test_a_side_without_sense_is_one_line(tmp_path, capsys, keys, message):
    assert prepare(tmp_path / "set", tmp_path, **keys) == 2
    assert capsys.readouterr().err.rstrip().endswith(message)
