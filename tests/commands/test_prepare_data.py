"""`rectify prepare-data` on embedded and generated sets, through the command line."""

import json

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image

from rectify.__main__ import main
from rectify.data.manifests import splits
from rectify.data.pairs import captions
from rectify.data.sets import FileSet, load_set
from rectify.results.declared import MANIFEST
from rectify.results.tables import read_note, read_table
from rectify.tasks import settings_of
from tests.helpers.films import film
from tests.helpers.trees import picture

IMAGES, CLIPS, PAIRS = "image_classification", "video_classification", "pairs"


def prepare(output, name: str, *options: str, task: str = IMAGES, **settings) -> int:
    """Run the command in this process and return its exit status."""
    given = {"task": task} | ({} if task == PAIRS else {"image_size": 28}) | settings
    words = ["--data", name, "--settings", json.dumps(given), "--folder", f"{output}", *options]
    return main(["prepare-data", *words])


def test_an_embedded_set_is_written_and_counted(tmp_path, capsys):
    assert prepare(tmp_path, "digits", reader="digits", classes=10) == 0
    logged = capsys.readouterr().err
    assert "digits: train: 1258 items" in logged
    assert "digits: test: 539 items" in logged
    assert "digits: 10 classes: digit 0, digit 1, digit 2, ..." in logged
    assert splits(tmp_path) == ["train", "test"]
    images = load_set(tmp_path, "test")
    assert images.images.shape == (539, 1, 28, 28)
    assert images.final_size


def test_the_note_says_what_made_the_set(tmp_path):
    sizes = {"train_items": 5, "test_items": 5}
    prepare(tmp_path, "small", reader="biased", classes=6, sizes=sizes)
    provenance = read_note(tmp_path / "manifest.csv")["provenance"]
    assert provenance["seed"] == 0
    assert len(provenance["code"]) == 16
    assert provenance["facts"]["data"] == "small"
    assert provenance["facts"]["settings"] == {
        "task": IMAGES, "reader": "biased", "folder": None, "full": False, "sizes": sizes,
        "classes": 6, "image_size": 28, "fraction": 1.0, "stored_side": None,
    }  # fmt: skip
    assert provenance["facts"]["items"] == {"train": 30, "test": 30}
    assert len(provenance["facts"]["classes"]) == 6
    assert len(provenance["facts"]["sha256"]) == 64


def test_what_an_entry_says_about_its_preparation_is_what_the_command_takes(tmp_path):
    keys = {"title": "Motions", "channels": 1, "top_k": 5, "training": {"epochs": 3}}
    entry = settings_of(CLIPS).model_validate(
        keys | {"reader": "motions", "classes": 10, "frames": 4, "image_size": 20}
        | {"sizes": {"train_items": 2, "test_items": 1}}
    )  # fmt: skip
    assert prepare(tmp_path, "motions", **entry.preparation()) == 0
    assert load_set(tmp_path, "train").images.shape == (20, 4, 1, 20, 20)


@pytest.mark.slow
def test_glyphs_have_their_shifted_sets(tmp_path):
    sizes = {"train_drawings": 1, "test_drawings": 1, "shifted_faces": 1}
    assert prepare(tmp_path, "glyphs", reader="glyphs", classes=100, sizes=sizes) == 0
    assert {split.partition("/")[0] for split in splits(tmp_path)} == {
        "train", "test", "test-a", "test-c", "test-r", "test-sk",
    }  # fmt: skip


@pytest.mark.slow
def test_kinds_of_characters_are_prepared(tmp_path):
    assert prepare(tmp_path, "scripts", reader="scripts", classes=50, sizes={"faces": 1}) == 0
    assert splits(tmp_path) == ["train", "test"]


def test_pairs_are_prepared(tmp_path):
    assert prepare(tmp_path, "pairs", task=PAIRS, reader="pairs", sizes={"items": 20}) == 0
    assert len(captions(tmp_path)) == len(load_set(tmp_path, "pairs")) == 20


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        (IMAGES, {"reader": "biased", "classes": 6, "sizes": {"train_items": 5}}),
        (CLIPS, {"reader": "motions", "classes": 10, "frames": 2, "sizes": {"train_items": 2}}),
        (PAIRS, {"reader": "pairs", "sizes": {"items": 20}}),
    ],
)
def test_preparing_twice_gives_equal_bytes(tmp_path, task, settings):
    for name in ("one", "two"):
        assert prepare(tmp_path / name, "toy", task=task, **settings) == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["arrays.safetensors", "manifest.csv", "manifest.csv.json"]
    for name in files:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second, name


def training_rows(folder) -> DataFrame:
    listing = read_table(MANIFEST, folder / "manifest.csv")
    assert listing["item"].tolist() == list(range(len(listing)))
    return listing[listing["split"] == "train"]


def test_a_share_of_a_set_has_that_share_of_each_class_and_is_part_of_larger_ones(tmp_path):
    sets = {}
    for share in (0.1, 0.25, 1.0):
        folder = tmp_path / f"{share}"
        assert prepare(folder, "digits", reader="digits", classes=10, fraction=share) == 0
        sets[share] = training_rows(folder)
    counts = {share: rows["label"].value_counts().sort_index() for share, rows in sets.items()}
    for share in (0.1, 0.25):
        expected = [round(share * count) for count in counts[1.0]]
        assert counts[share].tolist() == expected
    places = [set(rows["source"]) for rows in sets.values()]
    assert places[0] < places[1] < places[2]


def test_a_share_keeps_images_with_their_labels_and_the_test_set_whole(tmp_path):
    for share in (0.1, 1.0):
        prepare(tmp_path / f"{share}", "digits", reader="digits", classes=10, fraction=share)
    few, every = (load_set(tmp_path / name, "train") for name in ("0.1", "1.0"))
    whole = {source: number for number, source in enumerate(every.sources)}
    assert len(whole) == len(every)
    for item, source in enumerate(few.sources):
        assert few.labels[item] == every.labels[whole[source]]
        assert few.images[item].equal(every.images[whole[source]])
    tests = [load_set(tmp_path / name, "test") for name in ("0.1", "1.0")]
    assert tests[0].images.equal(tests[1].images)
    assert tests[0].sources == tests[1].sources


def test_a_share_of_a_set_of_files_keeps_one_of_each_class_at_least(tmp_path):
    for number in range(4):
        for label in "ab":
            picture(tmp_path / "bar" / "train" / f"{label}_{number}.jpg")
            picture(tmp_path / "bar" / "test" / f"{label}_{number}.jpg")
    settings = {"reader": "bar", "classes": 2, "folder": f"{tmp_path}/bar"}
    assert prepare(tmp_path / "out", "bar", fraction=0.01, **settings) == 0
    assert training_rows(tmp_path / "out")["label"].tolist() == [0, 1]
    assert len(load_set(tmp_path / "out", "test")) == 8


def test_a_share_of_nothing_is_one_line(tmp_path, capsys):
    assert prepare(tmp_path, "digits", reader="digits", classes=10, fraction=0) == 2
    assert "data.digits.fraction" in capsys.readouterr().err.splitlines()[-1]


def test_a_set_of_files_gets_a_manifest_only(tmp_path):
    for name in ("train/a_1.jpg", "train/b_1.jpg", "test/a_2.jpg", "test/b_2.jpg"):
        picture(tmp_path / "bar" / name, size=(4, 5))
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
    assert not loaded.final_size


@pytest.fixture
def imagenet(tmp_path):
    """ImageNet's layout with two classes, and two shifted sets; their settings."""
    for place in ("train/a", "train/b", "val/a", "val/b"):
        picture(tmp_path / "imagenet" / place / "1.JPEG")
    picture(tmp_path / "r" / "b" / "2.jpg")
    picture(tmp_path / "c" / "fog" / "3" / "a" / "3.jpg")
    shifts = {"c": f"{tmp_path / 'c'}", "r": f"{tmp_path / 'r'}"}
    folder = f"{tmp_path / 'imagenet'}"
    return {"reader": "imagenet", "classes": 2, "folder": folder, "shifts": shifts}


def test_each_shifted_set_has_a_folder_and_a_call_of_its_own(tmp_path, imagenet):
    out = tmp_path / "out"
    assert prepare(out, "imagenet", **imagenet) == 0
    assert splits(out) == ["train", "test"]
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for shift, split, label in (("r", "test-r", 1), ("c", "test-c/fog/3", 0)):
        place = out / f"shift-{shift}"
        assert prepare(place, "imagenet", "--shift", shift, **imagenet) == 0
        assert splits(place) == [split]
        loaded = load_set(place, split)
        assert loaded.labels.tolist() == [label]
        assert loaded[0].size == (5, 4)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_shift_changes_nothing_of_the_plain_set(tmp_path, imagenet):
    entry = settings_of(IMAGES).model_validate({"image_size": 28} | imagenet)
    other = settings_of(IMAGES).model_validate({"image_size": 28} | imagenet | {"shifts": {}})
    assert entry.preparation() == other.preparation()
    assert entry.preparation("r")["shifts"] == {"r": imagenet["shifts"]["r"]}
    assert entry.that_decides("weights") == other.that_decides("weights")
    for name, settings in (("one", imagenet), ("two", imagenet | {"shifts": {}})):
        assert prepare(tmp_path / name, "imagenet", **settings) == 0
    for name in ("manifest.csv", "manifest.csv.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_shift_that_the_settings_do_not_name_is_one_line(tmp_path, imagenet, capsys):
    assert prepare(tmp_path / "out", "imagenet", "--shift", "sk", **imagenet) == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare-data: --shift must be one of c, r, whose folders")
    assert not (tmp_path / "out").exists()


def test_an_unreadable_image_of_a_shifted_set_is_named(tmp_path, imagenet, capsys):
    (tmp_path / "r" / "b" / "2.jpg").write_text("no image")
    assert prepare(tmp_path / "out", "imagenet", "--shift", "r", **imagenet) == 2
    assert "got 1 missing or unreadable: b/2.jpg. Replace them." in capsys.readouterr().err


def write_bar(folder) -> None:
    for name in ("train/a_1.jpg", "train/b b_1.jpg", "test/a_2.jpg", "test/b b_2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((50, 40, 3), np.uint8)).save(folder / name)


def check(tmp_path, **more) -> int:
    """Run ``--check`` on BAR."""
    settings = {"reader": "bar", "classes": 2, "image_size": 28, "folder": f"{tmp_path / 'bar'}"}
    words = ["--data", "bar", "--settings", json.dumps(settings | more)]
    return main(["prepare-data", "--check", *words])


def test_a_check_reports_counts_classes_and_unreadable_files_and_writes_nothing(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    before = sorted(tmp_path.rglob("*"))
    assert check(tmp_path) == 0
    logged = capsys.readouterr().err
    for line in ("train: 2 items", "test: 2 items", "2 classes: a, b b", "0 unreadable files"):
        assert f"bar: {line}\n" in logged
    assert sorted(tmp_path.rglob("*")) == before


def test_a_check_names_every_unreadable_file(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    (tmp_path / "bar" / "test" / "a_2.jpg").write_text("no image")
    cut = tmp_path / "bar" / "train" / "b b_1.jpg"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert check(tmp_path) == 2
    *logged, error = capsys.readouterr().err.splitlines()
    assert [line.partition("unreadable: ")[2] for line in logged[-2:]] == [
        "train/b b_1.jpg",
        "test/a_2.jpg",
    ]
    assert "each file must be an intact image, got 2 missing or unreadable: train/b b_1" in error


def test_a_full_set_must_have_the_published_counts(tmp_path, capsys):
    write_bar(tmp_path / "bar")
    assert check(tmp_path, full=True) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("bar: the full set must have 1,941 items in train, got 2. ")
    folder, settings = f"{tmp_path}/bar", {"reader": "bar", "classes": 2, "full": True}
    assert prepare(tmp_path / "out", "bar", folder=folder, **settings) == 2
    assert not (tmp_path / "out").exists()


def test_captions_with_their_files_are_pairs(tmp_path):
    Image.fromarray(np.zeros((5, 4, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,nothing\n")
    settings = {"task": PAIRS, "reader": "captions", "folder": f"{tmp_path}"}
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
    return prepare(output, "ssv2", "--threads", "2", task=CLIPS, **settings | more)


def test_a_clip_that_cannot_be_decoded_is_named_and_nothing_is_written(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2].endswith("ssv2: unreadable: videos/d.mp4")
    assert lines[-1].startswith(
        "ssv2: 0 clips that cannot be decoded are accepted, got 1: videos/d.mp4. Get them again, "
        "or set data.ssv2.undecodable to 1"
    )
    assert not (tmp_path / "out").exists()


def test_accepted_clips_are_left_out_by_name_and_never_replaced(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, undecodable=1) == 0
    said = capsys.readouterr().err
    assert said.index("ssv2: train: 3 items") < said.index("ssv2: train: 2 items")
    assert load_set(tmp_path / "out", "train").sources == ("videos/a b.webm", "videos/c.mp4")
    assert load_set(tmp_path / "out", "test").sources == ("videos/e.mp4",)
    facts = read_note(tmp_path / "out" / "manifest.csv")["provenance"]["facts"]
    assert facts["left_out"] == ["videos/d.mp4"]
    assert facts["items"] == {"train": 2, "test": 1}
    assert clips(tmp_path / "more", films, undecodable=2) == 2
    assert "2 clips that cannot be decoded are accepted, got 1" in capsys.readouterr().err


def test_a_few_clips_are_not_the_full_set(tmp_path, films, capsys):
    assert clips(tmp_path / "out", films, full=True, undecodable=1) == 2
    said = capsys.readouterr().err  # those that are left out are counted
    assert "ssv2: the full set must have 168,913 items in train, got 3." in said


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reader": "digits", "classes": 9}, "toy: must have 9 classes, got 10. Complete"),
        ({"reader": "cifar", "classes": 1}, "config: data.toy: reader must be one of bar, biased"),
        ({"reader": "bar", "classes": 6}, "config: data.toy: reader bar must have a folder, got"),
        ({"reader": "bar", "classes": 6, "folder": "/nowhere"}, "/nowhere: must hold the data set"),
        (
            {"reader": "digits", "classes": 10, "sizes": {"train_sahre": 0.5}},
            "config: data.toy: sizes of digits must be among seed, train_share, got train_sahre. "
            "Did you mean train_share?",
        ),
        (
            {"reader": "digits", "classes": 10, "train_sahre": 0.5},
            "config: every key must be known, got 'train_sahre' at data.toy.",
        ),
        ({"task": "images", "reader": "digits", "classes": 10}, "config: task: must be a task of"),
    ],
)
def test_a_mistake_ends_with_one_line_and_nothing_written(tmp_path, capsys, settings, message):
    assert prepare(tmp_path / "out", "toy", **settings) == 2
    *logged, error = capsys.readouterr().err.splitlines()
    assert error.startswith(message)
    assert all(line.startswith("rectify.preparation toy: ") for line in logged)  # what it found
    assert not (tmp_path / "out").exists()
