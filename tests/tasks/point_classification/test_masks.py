"""Masks of clouds, from a prepared set to the table of a trained run."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rectify.commands import filtering, prepare_data, prepare_masks
from rectify.data.clouds import load_clouds
from rectify.results.declared import FILTERING, MASKS
from rectify.results.provenance import closure
from rectify.results.tables import read_table
from rectify.tasks import masks_modules
from rectify.tasks.point_classification.settings import Settings
from rectify.training.recipes import recipe
from tests.helpers import cloud_trees as trees
from tests.helpers.training import run, settings_of, training

pytestmark = pytest.mark.usefixtures("restored_runtime")

TASK = "point_classification"
SIZES = {"dim": 16, "depth": 2, "heads": 2, "groups": 16, "group_size": 16, "width": 4}
TEST = Path("main_split", "test_objectdataset.h5")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a generated ScanObjectNN."""
    sets = trees.drawn(2048, "bg", train=1)
    return trees.write_scanobjectnn(tmp_path_factory.mktemp("scans"), "bg", sets)


def keys(place: Path, **changes: object) -> dict[str, object]:
    entry = {"task": TASK, "reader": "scanobjectnn", "folder": f"{place}", "classes": 12}
    return {**entry, "points": 256, "sizes": {"variant": "bg"}, **changes}


def prepared(scans: Path, folder: Path) -> Path:
    said = {"data": "scans", "settings": json.dumps(keys(scans))}
    run(prepare_data, **said, folder=folder / "data")
    run(prepare_masks, **said, prepared=folder / "data", folder=folder / "masks")
    return folder


@pytest.mark.slow
def test_a_run_of_any_variant_is_measured(scans: Path, tmp_path: Path, block_file: Path) -> None:
    prepared(scans, tmp_path)
    listing = read_table(MASKS, tmp_path / "masks" / "masks.csv")
    test = load_clouds(tmp_path / "data", "test")
    assert listing["item"].tolist() == list(range(12))
    assert listing["source"].tolist() == list(test.sources)
    assert set(listing["number"]) == {1}
    for variant, kept in (("vanilla", None), ("insert", block_file), ("auxiliary", None)):
        values = settings_of(variant, task=TASK)
        values["data"] = {"name": "scans", "task": TASK, "classes": 12, "points": 256}
        values["vision"] |= {"timm": "none", "overrides": SIZES}
        small = {"epochs": 1, "batch_size": 6, "warmup_epochs": 0}
        values["recipe"] = json.loads(recipe("point-bert", **small).model_dump_json())
        block = None if variant == "vanilla" else block_file
        training(tmp_path, values, name=variant, block=block)
        files = {"model": tmp_path / variant / "model.safetensors", "block": kept}
        files |= {"data": tmp_path / "data", "masks": tmp_path / "masks"}
        output = tmp_path / variant / "filtering.csv"
        run(filtering, config=tmp_path / "config.json", **files, seed=0, threads=1, output=output)
        rows = read_table(FILTERING, output)
        places = {"F_E", "block-0", "block-1"}
        places |= {"F_L1", "F_A", "F_F", "F_L2"} if variant == "insert" else set()
        assert set(rows["place"]) == places
        assert set(rows["images"] + rows["dropped"]) == {12}
        maps = load_file(tmp_path / variant / "maps.safetensors")
        assert maps["points"].shape == (4, 256, 3)
        for item, points, mask in zip(maps["items"], maps["points"], maps["mask"], strict=True):
            same = (points[:, None] == test.points[item]).all(2)  # (seen, stored)
            assert same.any(1).all()
            assert torch.equal(test.objects[item][same.int().argmax(1)], mask.bool())


@pytest.mark.parametrize(("array", "found"), [(None, "none"), (5, "objects alone")])
def test_clouds_without_background_are_one_line(
    tmp_path: Path, array: int | None, found: str
) -> None:
    trees.write_scanobjectnn(tmp_path, "bg", trees.drawn(2048, "bg", train=1))
    with h5py.File(tmp_path / TEST, "a") as file:
        del file["mask"]
        if array is not None:
            file["mask"] = np.full((12, 2048), array)
    with pytest.raises(ValueError, match=f"scans: the mask of test clouds must .* {found}. Get"):
        prepared(tmp_path, tmp_path)


def test_a_set_says_whether_it_has_masks(scans: Path) -> None:
    def has_masks(**changes: object) -> bool:
        return Settings.model_validate(keys(scans, **changes)).has_masks

    assert has_masks()
    assert has_masks(sizes={})  # the hardest variant
    assert not has_masks(sizes={"variant": "only"})
    assert not has_masks(reader="modelnet40", sizes={})
    assert not has_masks(reader="solids", folder=None, sizes={})
    assert has_masks(reader="solids", folder=None, sizes={"variant": "hardest"})
    assert Settings.model_validate(keys(scans)).mask_folders == ()


def test_the_masks_digest_covers_reader_and_preparation(scans: Path) -> None:
    covered = closure(*masks_modules(TASK, Settings.model_validate(keys(scans))))
    assert {
        "rectify.tasks.point_classification.prepare_masks",
        "rectify.tasks.point_classification.readers.scanobjectnn",
        "rectify.data.clouds",
    } <= covered
