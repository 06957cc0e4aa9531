"""Readers by name, what they can be told, and the counts of the published sets."""

import inspect
import itertools
import subprocess
import sys
from importlib import resources

import pytest
from pandas import DataFrame
from timm.data import ImageNetInfo

from rectify.demo import (
    captions,
    glyph_solids,
    glyphs,
    lanes,
    motions,
    pairs,
    questions,
    rooms,
    scenes,
    scripts,
    solids,
)
from rectify.tasks import names, readers, settings_of
from rectify.tasks.image_classification.readers import bar, imagenet
from rectify.tasks.image_classification.readers.imagenet import CORRUPTIONS, synsets
from rectify.tasks.readers import check_complete, few
from rectify.typed import parse

IMAGES = "rectify.tasks.image_classification.readers"
CLIPS = "rectify.tasks.video_classification.readers"
PAIRS = "rectify.tasks.pairs.readers"
POINTS = "rectify.tasks.point_classification.readers"
TRAFFIC = "rectify.tasks.motion_forecasting.readers"
CAPTIONS = "rectify.tasks.image_text_retrieval.readers"
QUESTIONS = "rectify.tasks.visual_question_answering.readers"
ROOMS = "rectify.tasks.situated_question_answering.readers"
ALL = [
    (package, name)
    for package in (IMAGES, CLIPS, PAIRS, POINTS, TRAFFIC, QUESTIONS, CAPTIONS, ROOMS)
    for name in readers.names(package)
]
TOY = {"classes": 6, "image_size": 28}


def listing(*parts: tuple[str, str, int]) -> DataFrame:
    """Return a manifest with so many items of each split and class."""
    rows = [(split, name) for split, name, items in parts for _ in range(items)]
    return DataFrame(rows, columns=["split", "name"]).assign(label=0, source="x")


def bar_listing(**changed: int) -> DataFrame:
    parts = [("train", name, counts[0]) for name, counts in bar.CLASSES.items()]
    return listing(
        *parts,
        *(("test", name, changed.get(name, n)) for name, (_, n) in bar.CLASSES.items()),
    )


def test_every_folder_of_readers_belongs_to_a_task():
    assert {settings_of(name).READERS for name in names()} == {
        IMAGES,
        CLIPS,
        PAIRS,
        POINTS,
        TRAFFIC,
        QUESTIONS,
        CAPTIONS,
        ROOMS,
    }


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_reader_says_how_its_set_is_kept_and_takes_a_folder_if_it_has_one(package, name):
    reader = readers.find(package, name)
    assert isinstance(reader.EMBEDDED, bool)
    assert reader.IN_MEMORY or not reader.EMBEDDED
    assert ("folder" in readers.arguments(reader)) == (not reader.EMBEDDED)
    assert inspect.getdoc(reader.read)


def test_all_readers_are_known_without_torch():
    code = (
        "import sys\nfrom rectify.tasks import readers\n"
        f"for package, name in {ALL!r}: readers.find(package, name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("package", "name", "draw"),
    [
        (IMAGES, "glyphs", glyphs.glyphs),
        (IMAGES, "digits", glyphs.digits),
        (IMAGES, "biased", glyphs.biased),
        (IMAGES, "scripts", scripts.scripts),
        (IMAGES, "scenes", scenes.scenes),
        (CLIPS, "motions", motions.motions),
        (PAIRS, "pairs", pairs.pairs),
        (PAIRS, "glyph_solids", glyph_solids.glyph_solid_pairs),
        (POINTS, "solids", solids.solids),
        (POINTS, "glyph_solids", glyph_solids.glyph_solids),
        (TRAFFIC, "lanes", lanes.lanes),
        (QUESTIONS, "questions", questions.questions),
        (CAPTIONS, "captions", captions.captions),
        (ROOMS, "rooms", rooms.rooms),
    ],
)
def test_an_embedded_set_has_all_arguments_of_its_drawing_each_with_a_default(package, name, draw):
    parameters = inspect.signature(readers.find(package, name).read).parameters
    assert list(parameters) == list(inspect.signature(draw).parameters)
    assert all(one.default is not inspect.Parameter.empty for one in parameters.values())


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        (
            "image_classification",
            TOY | {"reader": "imagnet"},
            r"reader must be one of bar, biased, .*got 'imagnet'\. Did you mean imagenet",
        ),
        (
            "image_classification",
            TOY,
            r"reader must be one of bar, .*got ''\. Known: bar",
        ),
        (
            "image_classification",
            TOY | {"reader": "biased", "sizes": {"train_itmes": 3}},
            r"sizes of biased must be among .*got train_itmes\. Did you mean train_items",
        ),
        (
            "image_classification",
            TOY | {"reader": "bar", "folder": "x", "sizes": {"seed": 3}},
            "sizes of bar must be among none, got seed",
        ),
        (
            "image_classification",
            TOY | {"reader": "bar"},
            "reader bar must have a folder, got none",
        ),
        (
            "image_classification",
            TOY | {"reader": "biased", "folder": "x"},
            "reader biased must have no folder: it is drawn, got x",
        ),
        (
            "image_classification",
            TOY | {"reader": "biased", "full": True},
            "only a published set can be full, got reader biased",
        ),
        (
            "image_classification",
            TOY | {"reader": "bar", "folder": "x", "shifts": {"c": "y"}},
            "reader bar must have no shifts, .*, got some",
        ),
        (
            "video_classification",
            TOY | {"reader": "motions", "frames": 8, "undecodable": 2},
            "clips in memory must have no undecodable and no views, got 2 and 1 x 1",
        ),
        (
            "video_classification",
            TOY | {"reader": "motions", "frames": 8, "views": {"time": 2}},
            "clips in memory must have no undecodable and no views, got 0 and 2 x 1",
        ),
    ],
)
def test_a_set_gets_what_its_reader_needs_and_nothing_without_effect(task, entry, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(settings_of(task), entry, "data.toy")
    assert str(caught.value).startswith("config: data.toy: ")
    assert "\n" not in str(caught.value)


def test_a_message_shows_a_few_names():
    assert few([]) == ""
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(["a", "b", "c", "d"]) == "a, b, c, ..."


def test_the_classes_of_bar_add_up_to_its_two_splits():
    assert {
        ("train",): sum(train for train, _ in bar.CLASSES.values()),
        ("test",): sum(test for _, test in bar.CLASSES.values()),
    } == bar.COMPLETE


def complete(name, rows, package=IMAGES):
    check_complete("toy", readers.find(package, name), rows)


def test_a_complete_set_passes():
    complete("bar", bar_listing())
    complete("cifar100", listing(("train", "a", 50_000), ("test", "a", 10_000)))
    complete("ssv2", listing(("train", "a", 168_913), ("test", "a", 24_777)), CLIPS)
    complete("captions", listing(("pairs", "a", 1_024)), PAIRS)
    complete("caltech256", listing(("train", "a", 20_846), ("test", "a", 8_934)))


@pytest.mark.parametrize(
    ("package", "name", "rows", "message"),
    [
        (
            IMAGES,
            "cifar100",
            listing(("train", "a", 49_999)),
            "must have 50,000 items in train, got 49999",
        ),
        (
            IMAGES,
            "caltech256",
            listing(("train", "a", 9)),
            "must have 29,780 items in train and test, got 9",
        ),
        (
            CLIPS,
            "ssv2",
            listing(("train", "a", 168_913), ("test", "a", 24_776)),
            "must have 24,777 items in test, got 24776",
        ),
        (
            PAIRS,
            "captions",
            listing(("pairs", "a", 1)),
            "must have 1,024 items in pairs, got 1",
        ),
        (
            IMAGES,
            "bar",
            bar_listing(fishing=41, diving=160),
            r"159 items of diving, got \(520, 160\)",
        ),
    ],
)
def test_a_set_that_is_not_complete_is_one_line(package, name, rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        complete(name, rows, package)
    assert str(caught.value).startswith("toy: ")
    assert "data.toy.full" in str(caught.value)
    assert "\n" not in str(caught.value)


def imagenet_listing(monkeypatch, **changed) -> DataFrame:
    """Return ImageNet with every class and condition, one item each, and count it as complete."""
    kinds = {"train": synsets("train"), "test": synsets("train"), "test-sk": synsets("train")}
    kinds |= {"test-a": synsets("test-a"), "test-r": synsets("test-r")} | changed
    conditions = changed.get("conditions", itertools.product(CORRUPTIONS, range(1, 6)))
    kinds.pop("conditions", None)
    parts = [(split, name, 1) for split, classes in kinds.items() for name in classes]
    parts += [(f"test-c/{name}/{severity}", "n01440764", 1) for name, severity in conditions]
    rows = listing(*parts)
    counts = rows["split"].str.partition("/")[0].value_counts()
    made = {(split,): int(n) for split, n in counts.items()}
    monkeypatch.setattr(imagenet, "COMPLETE", made)
    return rows


def test_the_classes_of_imagenet_and_its_variants_are_timms(monkeypatch):
    assert synsets("train") == sorted(ImageNetInfo("imagenet-1k").label_names())
    assert [len(synsets(split)) for split in ("test-a", "test-r", "test-sk")] == [200, 200, 1000]
    assert len(set(synsets("test-a")) & set(synsets("test-r"))) == 86
    complete("imagenet", imagenet_listing(monkeypatch))


@pytest.mark.parametrize("variant", ["a", "r"])
def test_the_classes_of_a_variant_are_the_mask_that_timm_ships(variant):
    """Evaluation lets the logits of the classes in a set compete: those of its folders."""
    known = {name: label for label, name in enumerate(synsets("train"))}
    indices = resources.files("timm.data") / "_info" / f"imagenet_{variant}_indices.txt"
    shipped = [int(line) for line in indices.read_text().split()]
    assert [known[name] for name in synsets(f"test-{variant}")] == sorted(shipped)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test-a": synsets("test-r")}, "the published classes in test-a, got n01443537"),
        ({"test-r": synsets("test-r")[1:]}, "the published classes in test-r, got n01443537"),
        ({"conditions": [("fog", 1)]}, "15 corruptions in 5 severities, got test-c/brightness/1"),
    ],
)
def test_other_classes_or_conditions_are_named(monkeypatch, changed, message):
    rows = imagenet_listing(monkeypatch, **changed)
    with pytest.raises(ValueError, match=message):
        complete("imagenet", rows)


def test_a_shift_that_the_config_does_not_name_is_not_missed(monkeypatch):
    rows = imagenet_listing(monkeypatch)
    complete("imagenet", rows[~rows["split"].str.startswith("test-")])
    with pytest.raises(ValueError, match="1,000 items in test-sk, got 999"):
        complete("imagenet", rows.drop(rows.index[rows["split"] == "test-sk"][0]))


def test_a_shifted_set_alone_is_complete_without_the_plain_one(monkeypatch):
    rows = imagenet_listing(monkeypatch)
    for shift in ("test-a", "test-c", "test-sk", "test-r"):
        complete("imagenet", rows[rows["split"].str.partition("/")[0] == shift])
    with pytest.raises(ValueError, match="items in train, got 0"):
        complete("imagenet", rows[rows["split"] == "test"])


def test_the_counts_are_the_published_ones():
    assert imagenet.COMPLETE == {
        ("train",): 1_281_167,
        ("test",): 50_000,
        ("test-c",): 3_750_000,
        ("test-a",): 7_500,
        ("test-sk",): 50_889,
        ("test-r",): 30_000,
    }
    assert bar.CLASSES["pole vaulting"] == (279, 131)
