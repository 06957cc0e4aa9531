"""The readers of published sets, on generated trees with the real names."""

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rectify.tasks.image_classification.readers import bar, caltech256, cifar100, imagenet
from tests.helpers.trees import picture, write_cifar


@pytest.fixture
def digests(monkeypatch):
    """A function that makes generated files count as the published ones."""

    def publish(made):
        monkeypatch.setattr(cifar100, "MD5", made)
        return made

    return publish


def test_cifar_is_read_in_the_order_of_its_files(tmp_path, digests):
    digests(write_cifar(tmp_path))
    sets = cifar100.read(tmp_path)
    data = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    assert list(sets) == ["train", "test"]
    assert sets["train"].classes == ("apple", "aquarium fish", "class 0")
    assert sets["train"].images.shape == (6, 3, 32, 32)
    assert np.array_equal(sets["train"].images[4, 1].numpy().ravel(), data[4, 1024:2048])
    assert sets["test"].labels.tolist() == [0, 1, 2]
    assert sets["train"].sources[5] == "train/train_5.png"


def test_the_published_digests_are_the_ones_that_are_asked_for(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(ValueError, match=r"train: MD5 must be 16019d7e3df5f24257cddd939b257f8d, "):
        cifar100.read(tmp_path)


def test_a_damaged_file_is_not_unpickled(tmp_path, digests):
    made = digests(write_cifar(tmp_path))
    (tmp_path / "test").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(ValueError, match=rf"test: MD5 must be {made['test']}, got ") as caught:
        cifar100.read(tmp_path)
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_without_running_it(tmp_path, digests):
    trace = tmp_path / "trace"
    digests(write_cifar(tmp_path, meta=pickle.dumps(Malicious(trace))))
    with pytest.raises(ValueError, match=r"meta: must hold arrays and plain values, got .*allowed"):
        cifar100.read(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "code", [b"cbuiltins\neval\n(V1\ntR.", b"cnumpy\nload\n(V1\ntR.", b"cos\nsystem\n(V1\ntR."]
)
def test_globals_other_than_arrays_are_refused(tmp_path, digests, code):
    digests(write_cifar(tmp_path, meta=code))
    with pytest.raises(ValueError, match="is not allowed"):
        cifar100.read(tmp_path)


@pytest.mark.parametrize(
    ("reader", "source"),
    [
        (cifar100, "CIFAR-100"),
        (imagenet, "ImageNet"),
        (bar, "BAR"),
        (caltech256, "Caltech-256"),
    ],
)
def test_missing_data_says_where_it_belongs_and_how_to_get_it(tmp_path, reader, source):
    with pytest.raises(ValueError, match=rf"must hold the data set, got no .*{source}") as caught:
        reader.read(tmp_path / "nowhere")
    assert str(caught.value).startswith(str(tmp_path / "nowhere"))
    assert "\n" not in str(caught.value)


@pytest.fixture
def tree(tmp_path):
    for split, items in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            for item in range(items):
                picture(tmp_path / "imagenet" / split / name / f"{name} {item}.JPEG")
    (tmp_path / "imagenet" / "train" / "n01440764" / "notes.txt").write_text("stray")
    return tmp_path / "imagenet"


def test_image_folders_give_sorted_classes_and_files(tree):
    rows = imagenet.read(tree)
    assert Counter(row.split for row in rows) == {"train": 6, "test": 4}
    assert rows[0].source == "train/n01440764/n01440764 0.JPEG"
    assert [row.label for row in rows] == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert all((tree / row.source).is_file() for row in rows)


def test_shifted_sets_use_the_labels_of_training_and_name_files_from_their_own_folder(tree):
    corrupted, rendered = tree.parent / "c", tree.parent / "r"
    picture(corrupted / "fog" / "3" / "n01443537" / "x.JPEG")
    picture(rendered / "n01443537" / "y.jpg")
    rows = [*imagenet.read_shift(tree, "c", corrupted), *imagenet.read_shift(tree, "r", rendered)]
    assert rows == [
        ("test-c/fog/3", 1, "n01443537", "fog/3/n01443537/x.JPEG"),
        ("test-r", 1, "n01443537", "n01443537/y.jpg"),
    ]


def test_every_folder_may_be_a_link(tree, tmp_path, monkeypatch):
    picture(tmp_path / "store" / "r" / "n01443537" / "y.jpg")
    deep = tmp_path / "store" / "a" / "b" / "imagenet"
    deep.parent.mkdir(parents=True)
    tree.rename(deep)
    data = tmp_path / "work" / "data"
    data.mkdir(parents=True)
    (data / "imagenet").symlink_to(deep)
    (data / "imagenet-r").symlink_to(tmp_path / "store" / "r")
    monkeypatch.chdir(data.parent)
    folder, shifted = Path("data/imagenet"), Path("data/imagenet-r")
    rows, others = imagenet.read(folder), imagenet.read_shift(folder, "r", shifted)
    assert (len(rows), len(others)) == (10, 1)
    assert rows[0].source == "train/n01440764/n01440764 0.JPEG"
    assert all((folder / row.source).is_file() for row in rows)
    assert (shifted / others[0].source).is_file()


def test_a_class_missing_from_validation_is_named(tree):
    for file in (tree / "val" / "n01443537").iterdir():
        file.unlink()
    message = r"all 2 classes must have images in test, got none for 1: n01443537\. "
    with pytest.raises(ValueError, match=message):
        imagenet.read(tree)


def test_a_class_unknown_in_training_is_named(tree):
    picture(tree / "val" / "n99999999" / "x.JPEG")
    with pytest.raises(ValueError, match=r"one of the 2 in training, got 'n99999999'\."):
        imagenet.read(tree)


def test_bar_takes_the_class_from_the_file_name(tmp_path):
    for split, items in (("train", 3), ("test", 1)):
        for name in ("climbing", "pole vaulting"):
            for item in range(items):
                picture(tmp_path / split / f"{name}_{item}.jpg")
    (tmp_path / "train" / "metadata.json").write_text("{}")
    rows = bar.read(tmp_path)
    assert Counter((row.split, row.name) for row in rows) == {
        ("train", "climbing"): 3,
        ("train", "pole vaulting"): 3,
        ("test", "climbing"): 1,
        ("test", "pole vaulting"): 1,
    }
    assert rows[-1].source == "test/pole vaulting_0.jpg"
    assert [row.label for row in rows] == [0, 0, 0, 1, 1, 1, 0, 1]


@pytest.fixture
def caltech(tmp_path):
    for number, name, items in ((1, "ak47", 10), (56, "dog", 13), (257, "clutter", 4)):
        for item in range(items):
            picture(tmp_path / f"{number:03}.{name}" / f"{number:03}_{item:04}.jpg")
    (tmp_path / "056.dog" / "greg").mkdir()
    (tmp_path / "056.dog" / "RENAME2").write_text("stray")
    return tmp_path


def test_caltech_drops_clutter_and_strays_and_splits_every_class(caltech):
    rows = caltech256.read(caltech)
    assert Counter((row.split, row.name) for row in rows) == {
        ("train", "ak47"): 7,
        ("test", "ak47"): 3,
        ("train", "dog"): 9,
        ("test", "dog"): 4,
    }
    assert len({row.source for row in rows}) == len(rows)
    assert list(dict.fromkeys(row.split for row in rows)) == ["train", "test"]


def test_the_split_of_caltech_depends_on_the_seed_alone(caltech):
    first = caltech256.read(caltech)
    assert first == caltech256.read(caltech, seed=0)
    assert first != caltech256.read(caltech, seed=1)


def test_strays_are_left_out_and_named(caltech, caplog):
    caplog.set_level(logging.INFO)
    picture(caltech / "001.ak47" / "._001_0001.jpg")  # what macOS writes beside a file
    (caltech / "056.dog" / "folder.jpg").mkdir()
    assert len(caltech256.read(caltech)) == 23
    assert "056.dog: left out 3 that are no images: RENAME2, folder.jpg, greg" in caplog.text
    assert "001.ak47: left out 1 that are no images: ._001_0001.jpg" in caplog.text


@pytest.mark.parametrize(
    ("reader", "folders"),
    [
        (imagenet, ("train", "val")),
        (bar, ("train", "test")),
        (caltech256, ()),
    ],
)
def test_an_empty_folder_is_one_line(tmp_path, reader, folders):
    for name in folders:
        (tmp_path / name).mkdir()
    message = r"must hold images of every class, got no class at all\. Unpack"
    with pytest.raises(ValueError, match=message) as caught:
        reader.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_empty_class_of_caltech_is_named(caltech):
    (caltech / "100.empty").mkdir()
    with pytest.raises(ValueError, match=r"all 3 classes must .* in train, got none for 1: empty"):
        caltech256.read(caltech)


def corrupted(folder: Path, *conditions: str) -> Path:
    for condition in conditions:
        picture(folder / condition / "n01443537" / "x.JPEG")
    return folder


def test_the_extra_corruptions_do_not_count(tree, caplog):
    caplog.set_level(logging.INFO)
    place = corrupted(tree.parent / "c", "fog/1", "speckle_noise/1", "saturate/5")
    assert {row.split for row in imagenet.read_shift(tree, "c", place)} == {"test-c/fog/1"}
    assert "speckle_noise: left out" in caplog.text


def test_a_wrong_severity_or_an_empty_condition_is_one_line(tree):
    place = corrupted(tree.parent / "c", "fog/6")
    with pytest.raises(ValueError, match=r"must have folders 1 to 5, got '6'\."):
        imagenet.read_shift(tree, "c", place)
    (tree.parent / "d" / "fog" / "2").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"fog/2: must hold one folder of images per class, got"):
        imagenet.read_shift(tree, "c", tree.parent / "d")
    (tree.parent / "a").mkdir()
    with pytest.raises(ValueError, match=r"a: must hold one folder of images per class, got no"):
        imagenet.read_shift(tree, "a", tree.parent / "a")
    with pytest.raises(ValueError, match=r"absent: must hold the data set, got no .*ImageNet-SK"):
        imagenet.read_shift(tree, "sk", tree.parent / "absent")


def write_bar(folder: Path) -> dict[str, dict]:
    """Write BAR in miniature; return its metadata."""
    for split in ("train", "test"):
        for name in ("climbing", "pole vaulting"):
            picture(folder / split / f"{name}_{0 if split == 'train' else 7}.jpg")
    metadata = {
        f"{name}_{number}": {"cls": name, "source": "google", "train": number == 0}
        for name in ("climbing", "pole vaulting")
        for number in (0, 7)
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return metadata


def test_bar_agrees_with_its_metadata(tmp_path):
    write_bar(tmp_path)
    assert len(bar.read(tmp_path)) == 4


@pytest.mark.parametrize(
    "content", [[], {"a": 1}, {"a": {}}, {"a": {"cls": "a"}}, {"a\nb": {"cls": "a", "train": True}}]
)
def test_metadata_of_another_shape_are_one_line(tmp_path, content):
    write_bar(tmp_path)
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    message = (
        r"metadata\.json: must give cls and train of each file by its name, got something else"
    )
    with pytest.raises(ValueError, match=message):
        bar.read(tmp_path)


@pytest.mark.parametrize(
    "damage", ["in the other split", "of another class", "not listed", "listed but missing"]
)
def test_a_file_that_disagrees_with_the_metadata_is_named(tmp_path, damage):
    metadata = write_bar(tmp_path)
    wrong = "pole vaulting_7"
    if damage == "in the other split":
        metadata[wrong]["train"] = True
    if damage == "of another class":
        metadata[wrong]["cls"] = "climbing"
    if damage == "not listed":
        del metadata[wrong]
    if damage == "listed but missing":
        wrong = "climbing_9"
        metadata[wrong] = {"cls": "climbing", "train": True}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=rf"got 1 missing, .*: {wrong}\. Get the data"):
        bar.read(tmp_path)
