"""`rectify prepare-data` on embedded and generated sets, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from rectify.__main__ import main
from rectify.data.images import FileSet, load_set, splits
from rectify.data.pairs import captions
from rectify.records import read_note
from tests.data.films import film


def prepare(output, name: str, **settings) -> int:
    """Run the command in this process and return its exit status."""
    settings = {"name": name, "image_size": 28, "seed": 0, "folder": None} | settings
    return main(
        [
            "prepare-data",
            "--data",
            name,
            "--settings",
            json.dumps(settings),
            "--folder",
            f"{output}",
        ]
    )


def test_an_embedded_set_is_written_and_counted(tmp_path, capsys):
    assert prepare(tmp_path, "digits", reader="digits", classes=10) == 0
    logged = capsys.readouterr().err
    assert "digits: train: 1258 items" in logged
    assert "digits: test: 539 items" in logged
    assert splits(tmp_path) == ["train", "test"]
    assert load_set(tmp_path, "test").images.shape == (539, 1, 28, 28)


def test_the_note_says_what_made_the_set(tmp_path):
    prepare(tmp_path, "small", reader="biased", classes=6, train_items=5, test_items=5)
    provenance = read_note(tmp_path / "manifest.csv")["provenance"]
    assert provenance["seed"] == 0
    assert len(provenance["code"]) == 16
    assert provenance["facts"]["data"] == "small"
    assert provenance["facts"]["settings"]["reader"] == "biased"
    assert provenance["facts"]["settings"]["train_items"] == 5


def test_sizes_and_the_config_s_own_keys_may_be_given(tmp_path):
    described = {"title": "Motions", "channels": 1, "top_k": 5, "embedded": True}
    prepare(
        tmp_path, "motions", reader="motions", classes=10, frames=4, train_items=2, test_items=1,
        **described,
    )  # fmt: skip
    assert load_set(tmp_path, "train").images.shape == (20, 4, 1, 28, 28)


def test_glyphs_have_their_shifted_sets(tmp_path):
    sizes = {"train_drawings": 1, "test_drawings": 1, "shifted_faces": 1}
    shifts = {"c": None, "a": None, "sk": None, "r": None}
    assert prepare(tmp_path, "glyphs", reader="glyphs", classes=100, shifts=shifts, **sizes) == 0
    assert {split.partition("/")[0] for split in splits(tmp_path)} == {
        "train", "test", "test-a", "test-c", "test-r", "test-sk",
    }  # fmt: skip


def test_kinds_of_characters_are_prepared(tmp_path):
    assert prepare(tmp_path, "scripts", reader="scripts", classes=50, faces=1) == 0
    assert splits(tmp_path) == ["train", "test"]


def test_pairs_are_prepared(tmp_path):
    assert prepare(tmp_path, "pairs", reader="pairs", classes=0, items=20) == 0
    assert len(captions(tmp_path)) == len(load_set(tmp_path, "pairs")) == 20


def test_a_set_of_files_gets_a_manifest_only(tmp_path):
    for name in ("train/a_1.jpg", "train/b_1.jpg", "test/a_2.jpg", "test/b_2.jpg"):
        (tmp_path / "bar" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "bar" / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "arrays.safetensors").write_bytes(b"of an earlier preparation")
    assert prepare(tmp_path / "out", "bar", reader="bar", classes=2, folder=f"{tmp_path}/bar") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "manifest.csv",
        "manifest.csv.json",
    ]
    loaded = load_set(tmp_path / "out", "test")
    assert isinstance(loaded, FileSet)
    assert loaded[1].size == (4, 5)


def test_captions_with_their_files_are_pairs(tmp_path):
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,nothing\n")
    settings = {"reader": "captions", "classes": 0, "folder": f"{tmp_path}"}
    assert prepare(tmp_path / "out", "wit", **settings) == 0
    assert captions(tmp_path / "out") == ["nothing"]
    assert len(load_set(tmp_path / "out", "pairs").images) == 1


@pytest.fixture
def films(tmp_path):
    """Two classes in VideoMAE's lists; the last clip for training is cut short."""
    folder = tmp_path / "ssv2"
    for name in ("a b.webm", "c.mp4", "d.mp4", "e.mp4"):
        film(folder / "videos" / name, frames=4)
    (folder / "train.csv").write_text("videos/a b.webm 0\nvideos/c.mp4 1\nvideos/d.mp4 1\n")
    (folder / "val.csv").write_text("videos/e.mp4 1\n")
    (folder / "videos" / "d.mp4").write_bytes(b"")
    return folder


def clips(output, folder, **more):
    settings = {"reader": "ssv2", "classes": 2, "frames": 16, "folder": f"{folder}"}
    return prepare(output, "ssv2", **settings | more)


def test_a_clip_that_cannot_be_decoded_is_named_and_nothing_is_written(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "ssv2: cannot be decoded: videos/d.mp4" in lines[0]
    assert lines[-1].startswith(
        "ssv2: 0 clips that cannot be decoded are accepted, got 1: videos/d.mp4. Get them again, "
        "or set data.ssv2.sizes.undecodable to 1"
    )
    assert not (tmp_path / "out").exists()


def test_accepted_clips_are_left_out_by_name_and_never_replaced(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, undecodable=1, threads=2) == 2  # no size of its own
    assert clips(tmp_path / "out", films, undecodable=1, views={}, visions={}) == 0
    assert "ssv2: train: 2 items" in capsys.readouterr().err
    assert load_set(tmp_path / "out", "train").sources == ("videos/a b.webm", "videos/c.mp4")
    assert load_set(tmp_path / "out", "test").sources == ("videos/e.mp4",)
    assert read_note(tmp_path / "out" / "manifest.csv")["provenance"]["facts"]["left_out"] == [
        "videos/d.mp4"
    ]
    assert clips(tmp_path / "more", films, undecodable=2) == 2
    assert "2 clips that cannot be decoded are accepted, got 1" in capsys.readouterr().err


def test_a_part_is_not_the_whole_set(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, full=True) == 2
    assert "ssv2: the whole set must have 168,913 clips in train, got 3." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "digits", "classes": 9}, "toy: must have 9 classes, got 10. Complete"),
        ({"reader": "cifar", "classes": 1}, "prepare-data: reader of toy must be one of glyphs, "),
        ({"reader": "bar", "classes": 6}, "prepare-data: toy must have a folder, got none. "),
        ({"reader": "bar", "classes": 6, "folder": "/nowhere"}, "/nowhere: must hold the data set"),
        (
            {"reader": "digits", "classes": 10, "train_sahre": 0.5},
            "prepare-data: sizes of digits must be among ",
        ),
    ],
)
def test_a_mistake_ends_with_one_line_and_nothing_written(tmp_path, capsys, settings, message):
    assert prepare(tmp_path / "out", "toy", **settings) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
