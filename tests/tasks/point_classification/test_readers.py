"""ScanObjectNN and ModelNet40 in generated files of their formats, whole and damaged."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from rectify.data.points import farthest_points, taken
from rectify.tasks.point_classification.prepare import prepare
from rectify.tasks.point_classification.readers import modelnet40, scanobjectnn
from rectify.tasks.point_classification.settings import Settings
from tests.helpers import cloud_trees as trees
from tests.helpers.cloud_trees import drawn

NAME = "training_objectdataset_augmentedrot_scale75.h5"


@pytest.mark.parametrize("variant", ["bg", "only", "hardest"])
@pytest.mark.parametrize("column", [False, True])
def test_scanobjectnn_is_read_as_it_was_written(tmp_path: Path, variant: str, column: bool) -> None:
    sets = drawn(2048)
    trees.write_scanobjectnn(tmp_path, variant, sets, column=column)
    found = scanobjectnn.read(tmp_path, variant=variant)
    for split, clouds in sets.items():
        assert torch.equal(found[split].points, clouds.points)
        assert torch.equal(found[split].labels, clouds.labels)
        assert torch.equal(found[split].objects, clouds.objects)
        assert found[split].classes[:3] == ("bag", "bin", "box")
        assert found[split].sources[3].endswith(".h5:3")


def test_the_variants_are_different_files(tmp_path: Path) -> None:
    trees.write_scanobjectnn(tmp_path, "bg", drawn(2048))
    with pytest.raises(ValueError, match=r"got no .*main_split_nobg/training_objectdataset\.h5"):
        scanobjectnn.read(tmp_path, variant="only")
    with pytest.raises(ValueError, match=r"a variant of ScanObjectNN, got 'hard'\. .*hardest"):
        scanobjectnn.read(tmp_path, variant="hard")


def test_a_set_without_masks_is_read_too(tmp_path: Path) -> None:
    trees.write_scanobjectnn(tmp_path, "hardest", drawn(2048))
    with h5py.File(tmp_path / "main_split" / NAME, "a") as file:
        del file["mask"]
    found = scanobjectnn.read(tmp_path)
    assert found["train"].objects is None
    assert found["test"].objects is not None


def changed(name: str, change: Callable) -> Callable:
    """Return what replaces an array of a file by a changed one."""

    def damage(path: Path) -> None:
        with h5py.File(path, "a") as file:
            values = change(np.asarray(file[name]))
            del file[name]
            if values is not None:
                file[name] = values

    return damage


def first(values: np.ndarray, value: float) -> np.ndarray:
    values = values.copy()
    values.flat[0] = value
    return values


DAMAGES = {
    "label gone": (changed("label", lambda v: None), "must hold data and label, got no label"),
    "data gone": (changed("data", lambda v: None), "must hold data and label, got no data"),
    "one point less": (
        changed("data", lambda v: v[:, 1:]),
        r"data must be numbers of shape \(clouds, 2048, 3\), got float32 of shape \(24, 2047, 3\)",
    ),
    "one label less": (
        changed("label", lambda v: v[1:]),
        r"label must be integers of shape \(clouds\), got int32 of shape \(23,\)",
    ),
    "broken labels": (changed("label", lambda v: v + 0.5), "label must be integers .* got float64"),
    "a mask of less": (changed("mask", lambda v: v[:, 1:]), "mask must be numbers of shape"),
    "no cloud": (changed("data", lambda v: v[:0]), "data must be numbers of shape"),
    "texts": (changed("data", lambda v: v.astype("S4")), "data must be numbers of shape"),
    "nan": (changed("data", lambda v: first(v, np.nan)), "must be finite, got another in cloud 0"),
    "infinity": (changed("data", lambda v: first(v, np.inf)), "must be finite, got another in"),
    "a class more": (
        changed("label", lambda v: first(v, 15)),
        r"lie in 0\.\.14, got 15 in cloud 0",
    ),
    "a negative class": (changed("label", lambda v: first(v, -1)), "lie in .* got -1 in cloud 0"),
    "cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        "an intact HDF5 file",
    ),
    "another format": (lambda path: path.write_text("clouds"), "must be an intact HDF5 file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_of_scanobjectnn_is_one_line(tmp_path: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    trees.write_scanobjectnn(tmp_path, "hardest", drawn(2048))
    damage(tmp_path / "main_split" / NAME)
    with pytest.raises(ValueError, match=said) as caught:
        scanobjectnn.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert NAME in str(caught.value)


def test_the_published_counts_depend_on_the_variant() -> None:
    def listing(end: str, train: int, test: int) -> pd.DataFrame:
        splits = ["train"] * train + ["test"] * test
        return pd.DataFrame({"split": splits, "source": f"main_split/x_objectdataset{end}.h5:0"})

    scanobjectnn.check("set", listing("", 2_309, 581))
    scanobjectnn.check("set", listing("_augmentedrot_scale75", 11_416, 2_882))
    with pytest.raises(ValueError, match="set: the full set must have 581 clouds in test, got 580"):
        scanobjectnn.check("set", listing("", 2_309, 580))
    with pytest.raises(ValueError, match="must have 11,416 clouds in train, got 2309"):
        scanobjectnn.check("set", listing("_augmentedrot_scale75", 2_309, 581))


@pytest.mark.parametrize("variant", ["bg", "only", "hardest"])
def test_every_printed_accuracy_is_a_share_of_the_test_clouds(variant: str) -> None:
    """Rounded or truncated: so the numbers of clouds are these."""
    clouds = scanobjectnn.COUNTS[scanobjectnn.VARIANTS[variant][1]][1]
    shares = [100 * right / clouds for right in range(clouds + 1)]
    known = {round(share, 2) for share in shares} | {int(100 * share) / 100 for share in shares}
    printed = {"bg": (87.43, 88.64), "only": (88.12, 88.81), "hardest": (83.07, 83.87)}[variant]
    assert set(printed) <= known
    assert len(known) < 10_000  # not every number is one


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clouds of 60 lines, of which 40 points are taken."""
    monkeypatch.setattr(modelnet40, "STORED", 40)
    monkeypatch.setattr(modelnet40, "LINES", 60)


@pytest.mark.usefixtures("small")
def test_both_forms_of_modelnet40_give_the_same_clouds(tmp_path: Path) -> None:
    sets = {
        split: replace(clouds, points=clouds.points.double().mul(1e6).round().div(1e6).float())
        for split, clouds in drawn(60, "only").items()
    }
    texts = modelnet40.read(trees.write_texts(tmp_path / "texts", sets))
    sampled = {
        split: replace(clouds, points=taken(clouds.points, farthest_points(clouds.points, 40)),
                       objects=None)
        for split, clouds in sets.items()
    }  # fmt: skip
    pickles = modelnet40.read(trees.write_dat(tmp_path / "pickles", sampled, 40))
    for split, clouds in sampled.items():
        for found in (texts[split], pickles[split]):
            torch.testing.assert_close(found.points, clouds.points, rtol=0, atol=1e-6)
            assert torch.equal(found.labels, clouds.labels)
            assert found.classes == clouds.classes
    assert texts["test"].sources[0] == "sphere/sphere_5000.txt"
    assert pickles["test"].sources[0] == "modelnet40_test_40pts_fps.dat:0 sphere_5000"


def test_a_class_may_have_an_underscore(tmp_path: Path) -> None:
    assert modelnet40._label(tmp_path, "night_stand_0001", ["night", "night_stand"]) == 1


def rewritten(change: Callable) -> Callable:
    """Return what replaces the content of the training pickle."""

    def damage(folder: Path) -> None:
        path = folder / "modelnet40_train_40pts_fps.dat"
        content = change(pickle.loads(path.read_bytes()))
        path.write_bytes(pickle.dumps(content))

    return damage


def with_nan(content: list) -> list:
    content[0][3][0, 0] = np.nan
    return content


def cut(folder: Path) -> None:
    path = folder / "modelnet40_train_40pts_fps.dat"
    path.write_bytes(path.read_bytes()[:-300])


PICKLES = {
    "one cloud less": (rewritten(lambda c: [c[0][1:], c[1]]), "hold the 24 items of its list"),
    "other labels": (rewritten(lambda c: [c[0], c[1][::-1]]), "hold the 24 items of its list"),
    "texts": (rewritten(lambda c: "clouds"), "must hold a list of clouds and a list of labels"),
    "fewer points": (
        rewritten(lambda c: [[one[1:] for one in c[0]], c[1]]),
        r"cloud 0: must have x, y and z of 40 points, got \(39, 6\)",
    ),
    "two coordinates": (
        rewritten(lambda c: [[one[:, :2] for one in c[0]], c[1]]),
        r"must have x, y and z of 40 points, got \(40, 2\)",
    ),
    "nan": (rewritten(with_nan), "cloud 3: each coordinate must be finite"),
    "cut short": (cut, "must hold arrays and plain values"),
    "no pickle": (
        lambda folder: (folder / "modelnet40_train_40pts_fps.dat").write_text("clouds"),
        "must hold arrays and plain values",
    ),
    "an unknown class": (
        lambda folder: (folder / "modelnet40_train.txt").write_text("sofa_0001\n"),
        "must be <class>_<number> of a class of modelnet40_shape_names.txt, got 'sofa_0001'",
    ),
    "an item twice": (
        lambda folder: (folder / "modelnet40_test.txt").write_text("box_1\nbox_1\n"),
        "a name in each line, each once, got box_1",
    ),
    "an empty list": (
        lambda folder: (folder / "modelnet40_test.txt").write_text("\n"),
        "a name in each line, each once, got none",
    ),
    "no list": (
        lambda folder: (folder / "modelnet40_test.txt").unlink(),
        "must hold the data set, got no .*modelnet40_test.txt",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", PICKLES)
def test_each_damage_of_modelnet40s_pickles_is_one_line(tmp_path: Path, name: str) -> None:
    damage, said = PICKLES[name]
    trees.write_dat(tmp_path, drawn(40, "only"), 40)
    damage(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        modelnet40.read(tmp_path)
    assert "\n" not in str(caught.value)


class Runs:
    """What a pickle could do if it was let."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("ran"),))


@pytest.mark.usefixtures("small")
def test_a_pickle_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees.write_dat(tmp_path, drawn(40, "only"), 40)
    (tmp_path / "modelnet40_test_40pts_fps.dat").write_bytes(pickle.dumps([Runs(), []]))
    with pytest.raises(ValueError, match=r"plain values, got pathlib\.Path.touch is not allowed"):
        modelnet40.read(tmp_path)
    assert not (tmp_path / "ran").exists()


TEXTS = {
    "a line less": (lambda text: text.partition("\n")[2], r"of 60 points, got \(59, 3\)"),
    "a word": (lambda text: text.replace("9.0", "nine", 1).replace(",", "x,", 1), "must be x,y,z"),
    "nan": (lambda text: "nan" + text[text.index(","):], "must be finite"),
    "nothing": (lambda text: "", "each line must be x,y,z and a normal, got"),
    "one column": (lambda text: text.replace(",", " "), "each line must be x,y,z and a normal"),
}  # fmt: skip


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", TEXTS)
def test_each_damage_of_modelnet40s_texts_is_one_line(tmp_path: Path, name: str) -> None:
    change, said = TEXTS[name]
    trees.write_texts(tmp_path, drawn(60, "only", 1))
    path = tmp_path / "cone" / "cone_0003.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=said) as caught:
        modelnet40.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("small")
def test_a_text_that_is_missing_is_named(tmp_path: Path) -> None:
    trees.write_texts(tmp_path, drawn(60, "only", 1))
    (tmp_path / "cone" / "cone_0003.txt").unlink()
    with pytest.raises(ValueError, match=r"got no .*cone/cone_0003\.txt"):
        modelnet40.read(tmp_path)


def entry(folder: Path, **changes: object) -> Settings:
    return Settings.model_validate(
        {"reader": "scanobjectnn", "folder": f"{folder}", "classes": 12, "points": 1024, **changes}
    )


def test_a_set_is_checked_when_it_is_prepared(tmp_path: Path) -> None:
    trees.write_scanobjectnn(tmp_path, "hardest", drawn(2048))
    prepared = prepare("scans", entry(tmp_path), None, 1)
    assert len(prepared.listing) == 36
    for changes, said in (
        ({"points": 4096}, "scans: points must not exceed the 2048 points of a stored cloud"),
        ({"classes": 15}, "scans: must have 15 classes, got 12"),
        ({"full": True}, "the full set must have 11,416 clouds in train, got 24"),
    ):
        with pytest.raises(ValueError, match=said):
            prepare("scans", entry(tmp_path, **changes), None, 1)


def test_a_share_of_the_training_clouds_can_be_kept(tmp_path: Path) -> None:
    trees.write_scanobjectnn(tmp_path, "hardest", drawn(2048))
    half = prepare("scans", entry(tmp_path, fraction=0.5), None, 1)
    assert half.listing["split"].value_counts().to_dict() == {"train": 12, "test": 12}
    assert half.sets["train"].labels.tolist() == list(range(12))
    whole = prepare("scans", entry(tmp_path), None, 1).sets["train"]
    for source, cloud in zip(half.sets["train"].sources, half.sets["train"].points, strict=True):
        assert torch.equal(cloud, whole.points[whole.sources.index(source)])
