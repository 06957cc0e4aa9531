"""The readers of published sets, on generated trees with the real names."""

import json
import logging
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rectify.tasks.image_classification.readers import (
    bar,
    caltech256,
    cifar100,
    imagenet,
    tinyimagenet,
)
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
        (tinyimagenet, "Tiny ImageNet"),
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
    message = r"all 2 classes must have images in test, got none for 1: n01443537, and files"
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


def flatten(tree: Path) -> list[str]:
    """Lay the validation images into ``val`` itself, as ILSVRC packs them; return their classes."""
    files = sorted((tree / "val").rglob("*.JPEG"), key=lambda file: file.name[::-1])
    for number, file in enumerate(files, 1):
        file.rename(tree / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    for place in (tree / "val").iterdir():
        if place.is_dir():
            place.rmdir()
    return [file.parent.name for file in files]


def test_flat_validation_images_say_what_they_need(tree):
    flatten(tree)
    message = (
        r"val: must have one folder of images per class, got 4 images without folders\. Put their "
        r"synsets, one a line in the order of the images, into .*/imagenet_2012_validation_synset_"
        r"labels\.txt, or sort the images into folders\."
    )
    with pytest.raises(ValueError, match=message) as caught:
        imagenet.read(tree)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", [".", "val"])
@pytest.mark.parametrize("with_files", [False, True])
def test_flat_validation_images_are_read_with_the_list_of_their_synsets(tree, place, with_files):
    labels = flatten(tree)
    names = [f"ILSVRC2012_val_{number:08}.JPEG" for number in range(1, 5)]
    lines = [f"{name} {label}" for name, label in zip(names, labels, strict=True)]
    text = "\n".join(reversed(lines) if with_files else labels) + "\n"
    (tree / place / imagenet.SYNSET_LIST).write_text(text)
    rows = imagenet.read(tree)
    assert [row[1:] for row in rows if row.split == "test"] == [
        (["n01440764", "n01443537"].index(label), label, f"val/{name}")
        for name, label in zip(names, labels, strict=True)
    ]
    assert len(set(labels)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n01440764\n" * 3, r"each of the 4 images, got 3 lines that do not fit"),
        ("n01440764\n" * 5, "got 5 lines that do not fit them"),
        ("a.JPEG n01440764\n" * 4, "got 4 lines that do not fit them"),
        ("1 2 3\n" * 4, "got 4 lines that do not fit them"),
        ("n01440764\n" * 3 + "n99\n", r"class must be one of the 2 in training, got 'n99'"),
        ("\xe9", "must be UTF-8, got invalid|unexpected end"),
    ],
)
def test_a_wrong_list_of_synsets_is_one_line(tree, text, message):
    flatten(tree)
    (tree / imagenet.SYNSET_LIST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        imagenet.read(tree)
    assert "\n" not in str(caught.value)


def write_tiny(folder: Path) -> list[str]:
    """Write Tiny ImageNet in miniature; return the lines of its validation list."""
    names = ("n01443537", "n01629819")
    for name in names:
        for item in range(3):
            picture(folder / "train" / name / "images" / f"{name}_{item}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t9\t9\n")
    lines = []
    for item in range(4):
        picture(folder / "val" / "images" / f"val_{item}.JPEG")
        lines.append(f"val_{item}.JPEG\t{names[item * 3 % 2]}\t0\t32\t44\t62")
        picture(folder / "test" / "images" / f"test_{item}.JPEG")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)) + "\n")
    (folder / "wnids.txt").write_text("n01629819\nn01443537\n")
    return lines


def test_tiny_imagenet_takes_the_classes_of_its_list(tmp_path):
    lines = write_tiny(tmp_path)
    rows = tinyimagenet.read(tmp_path)
    assert Counter((row.split, row.name) for row in rows) == {
        ("train", "n01443537"): 3,
        ("train", "n01629819"): 3,
        ("test", "n01443537"): 2,
        ("test", "n01629819"): 2,
    }
    assert [(Path(row.source).name, row.name) for row in rows[6:]] == [
        tuple(line.split("\t")[:2]) for line in lines
    ]
    assert [row.label for row in rows] == [0, 0, 0, 1, 1, 1, 0, 1, 0, 1]
    assert all((tmp_path / row.source).is_file() for row in rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("val_3", "val_9"),
            r"got 2 without the other, first val_3\.JPEG",
        ),
        (lambda text: text + text, "each line must have a file of its own and its class, got"),
        (lambda text: text.replace("\t", " "), "each line must have a file of its own and its cl"),
        (lambda text: text.replace("n01443537", "n7"), "one of the 2 in training, got 'n7'"),
    ],
)
def test_a_wrong_list_of_tiny_imagenet_is_one_line(tmp_path, change, message):
    write_tiny(tmp_path)
    path = tmp_path / "val" / "val_annotations.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message) as caught:
        tinyimagenet.read(tmp_path)
    assert "\n" not in str(caught.value)
