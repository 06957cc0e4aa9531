"""`rectify prepare-data` on embedded and generated sets, through the command line."""

import json
from pathlib import Path

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
    assert "digits: 10 classes: digit 0, digit 1, digit 2, ..." in logged
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
    assert provenance["facts"]["items"] == {"train": 30, "test": 30}
    assert len(provenance["facts"]["classes"]) == 6
    assert len(provenance["facts"]["sha256"]) == 64


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


def write_bar(folder) -> None:
    for name in ("train/a_1.jpg", "train/b b_1.jpg", "test/a_2.jpg", "test/b b_2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(folder / name)


def check(tmp_path, *configs: str) -> int:
    """Run ``--check`` on the set that the configurations describe."""
    names = [f"{tmp_path}/{number}.yaml" for number in range(len(configs))]
    for name, text in zip(names, configs, strict=True):
        Path(name).write_text(text)
    return main(["prepare-data", "--check", "--data", "bar", "--config", *names])


BAR = "data: {bar: {title: BAR, reader: bar, classes: 2, image_size: 28, top_k: 1, folder: %s}}"


def test_a_check_reports_counts_classes_and_unreadable_files_and_writes_nothing(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    before = sorted(tmp_path.rglob("*"))
    assert check(tmp_path, BAR % (tmp_path / "bar")) == 0
    logged = capsys.readouterr().err
    for line in ("train: 2 items", "test: 2 items", "2 classes: a, b b", "0 unreadable files"):
        assert f"bar: {line}\n" in logged
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".yaml") == before


def test_a_check_names_every_unreadable_file(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    (tmp_path / "bar" / "test" / "a_2.jpg").write_text("no image")
    cut = tmp_path / "bar" / "train" / "b b_1.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert check(tmp_path, BAR % (tmp_path / "bar")) == 2
    *logged, error = capsys.readouterr().err.splitlines()
    assert [line.partition("unreadable: ")[2] for line in logged[-2:]] == [
        "train/b b_1.jpg",
        "test/a_2.jpg",
    ]
    assert "each file must be a whole image, got 2 missing or unreadable: train/b b_1" in error


def test_a_full_set_must_have_the_published_counts(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    full = "data: {bar: {full: true}}"
    assert check(tmp_path, BAR % (tmp_path / "bar"), full) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("bar: the full set must have 1,941 items in train, got 2. ")
    folder, settings = f"{tmp_path}/bar", {"reader": "bar", "classes": 2, "full": True}
    assert prepare(tmp_path / "out", "bar", folder=folder, **settings) == 2
    assert not (tmp_path / "out").exists()


def test_a_check_of_an_unknown_set_or_config_is_one_line(tmp_path, capsys):
    assert check(tmp_path, "data: {digits: {}, glyphs: {}}") == 2
    said = capsys.readouterr().err
    assert said.startswith("prepare-data: the set must be one of digits, glyphs, got 'bar'.")
    assert main(["prepare-data", "--check", "--data", "bar", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml: must be a configuration, got no file." in capsys.readouterr().err


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
    assert lines[-2].endswith("ssv2: unreadable: videos/d.mp4")
    assert lines[-1].startswith(
        "ssv2: 0 clips that cannot be decoded are accepted, got 1: videos/d.mp4. Get them again, "
        "or set data.ssv2.sizes.undecodable to 1"
    )
    assert not (tmp_path / "out").exists()


def test_accepted_clips_are_left_out_by_name_and_never_replaced(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, undecodable=1, threads=2) == 2  # no size of its own
    assert clips(tmp_path / "out", films, undecodable=1, views={}, visions={}) == 0
    said = capsys.readouterr().err
    assert said.index("ssv2: train: 3 items") < said.index("ssv2: train: 2 items")
    assert load_set(tmp_path / "out", "train").sources == ("videos/a b.webm", "videos/c.mp4")
    assert load_set(tmp_path / "out", "test").sources == ("videos/e.mp4",)
    facts = read_note(tmp_path / "out" / "manifest.csv")["provenance"]["facts"]
    assert facts["left_out"] == ["videos/d.mp4"]
    assert facts["items"] == {"train": 2, "test": 1}
    assert clips(tmp_path / "more", films, undecodable=2) == 2
    assert "2 clips that cannot be decoded are accepted, got 1" in capsys.readouterr().err


def test_a_part_is_not_the_whole_set(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, full=True, undecodable=1) == 2
    said = capsys.readouterr().err  # those that are left out are counted
    assert "ssv2: the full set must have 168,913 items in train, got 3." in said


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
    *logged, error = capsys.readouterr().err.splitlines()
    assert error.startswith(message)
    assert all(line.startswith("rectify.prepare_data toy: ") for line in logged)  # what it found
    assert not (tmp_path / "out").exists()
