"""The commands prepare-masks and filtering on a small drawn set, from files to files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rectify.commands import filtering, prepare_data, prepare_masks
from rectify.experiment.codes import modules
from rectify.results.declared import FILTERING, HISTORY, MASKS
from rectify.results.provenance import source_digest
from rectify.results.tables import read_note, read_table
from tests.helpers.training import run, settings_of, training

pytestmark = pytest.mark.usefixtures("restored_runtime")

SIZES = {"train_items": 3, "test_items": 2}
ENTRY = {"reader": "scenes", "classes": 8, "image_size": 56, "channels": 1, "sizes": SIZES}
DATA = {"name": "scenes", "classes": 8, "image_size": 56}
TRAINING = {"epochs": 1, "warmup_epochs": 0, "crop": "none"}
WIDE = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 7}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a prepared set and its masks."""
    folder = tmp_path_factory.mktemp("scenes")
    keys = {"data": "scenes", "settings": json.dumps(ENTRY)}
    run(prepare_data, **keys, folder=folder / "data")
    run(prepare_masks, **keys, prepared=folder / "data", folder=folder / "masks")
    return folder


def settings(variant: str = "vanilla", control: str = "frozen") -> dict:
    values = settings_of(variant, control, data=DATA, training=TRAINING)
    values["vision"]["overrides"] = WIDE
    return values


def filtered(folder: Path, prepared: Path, **more: object):
    keys = {"config": folder / "config.json", "model": folder / "run" / "model.safetensors"}
    keys |= {"data": prepared / "data", "masks": prepared / "masks", "seed": 0, "threads": 1}
    run(filtering, **keys | more, output=folder / "run" / "filtering.csv")
    return read_table(FILTERING, folder / "run" / "filtering.csv")


def test_masks_are_listed_with_what_they_were_made_from(prepared: Path) -> None:
    listing = read_table(MASKS, prepared / "masks" / "masks.csv")
    assert len(listing) == 16
    facts = read_note(prepared / "masks" / "masks.csv")["provenance"]["facts"]
    assert facts["data"] == "scenes"
    assert Path(facts["files"]) == prepared / "masks"
    assert all((prepared / "masks" / source).is_file() for source in listing["source"])


@pytest.mark.parametrize(
    ("variant", "control", "places"),
    [
        ("vanilla", "frozen", {"F_E"}),
        ("auxiliary", "frozen", {"F_E"}),
        ("auxiliary", "head", {"F_E"}),
        ("insert", "frozen", {"F_E", "F_L1", "F_A", "F_F", "F_L2"}),
        ("insert", "tuned", {"F_E", "F_L1", "F_A", "F_F", "F_L2"}),
        ("insert", "mlp", {"F_E", "F_L1", "F_L2"}),
        ("residual", "frozen", {"F_E", "F_L1", "F_A", "F_F", "F_L2", "F_S"}),
    ],
)
def test_a_run_of_any_variant_is_measured(
    tmp_path: Path, prepared: Path, block_file: Path, variant: str, control: str, places: set[str]
) -> None:
    block = None if "vanilla" in variant or control == "head" else block_file
    training(tmp_path, settings(variant, control), block=block, data=prepared / "data")
    kept = block_file if variant in ("insert", "residual") else None
    cover = {"filtering": json.dumps({"cover": 0.25})}
    rows = filtered(tmp_path, prepared, block=kept, **cover)
    assert set(rows["place"]) == {*places, "block-0", "block-1"}
    assert set(rows["images"] + rows["dropped"]) == {16}
    assert (rows["iou"] >= rows["iou_one_t"]).all()
    attended = {"block-1", *({"F_A"} & places)}
    assert set(rows.loc[rows["activation"] == "attention", "place"]) == attended
    note = read_note(tmp_path / "run" / "filtering.csv")["provenance"]
    assert note["facts"]["cover"] == 0.25
    assert note["code"] == source_digest(*modules("filtering", "image_classification"))
    assert set(load_file(tmp_path / "run" / "maps.safetensors")) >= {"image", "mask", "items"}


@pytest.mark.slow
def test_activations_are_compared_after_every_epoch(
    tmp_path: Path, prepared: Path, block_file: Path
) -> None:
    plain, watched, without = (tmp_path / name for name in ("plain", "watched", "without"))
    for folder in (plain, watched, without):
        folder.mkdir()
    values = settings("insert") | {"filtering": {"cover": 0.25}}
    values["recipe"] |= {"epochs": 2}
    files = {"block": block_file, "data": prepared / "data"}
    training(watched, values, masks=prepared / "masks", **files)
    rows = filtered(watched, prepared, block=block_file, filtering=json.dumps({"cover": 0.25}))
    history = read_table(HISTORY, watched / "run" / "history.csv").set_index("metric")
    outlined = history[history.index.str.startswith("iou/")]
    last = outlined.loc[outlined["epoch"] == 1, "value"].to_dict()
    expected = {f"iou/{row.place}/{row.activation}": row.iou for row in rows.itertuples()}
    assert last == pytest.approx(expected, rel=1e-6)
    assert len(outlined) == 2 * len(expected)
    code = read_note(watched / "run" / "history.csv")["provenance"]["code"]
    assert code == source_digest(*modules("outlined_train", "image_classification"))
    training(plain, values | {"filtering": None}, **files)
    ours, theirs = (load_file(folder / "run" / "model.safetensors") for folder in (watched, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ValueError, match=r"compares activations with masks, got none\. Give"):
        training(without, values, **files)


def test_what_is_wrong_is_one_line(tmp_path: Path, prepared: Path) -> None:
    training(tmp_path, settings(), data=prepared / "data")
    with pytest.raises(ValueError, match=r"got 'covr' at filtering\. Did you mean cover\?"):
        filtered(tmp_path, prepared, filtering=json.dumps({"covr": 1}))
    with pytest.raises(ValueError, match=r"masks\.csv: a masks table must be here, got no file"):
        filtered(tmp_path, prepared, masks=tmp_path / "absent")
    assert not (tmp_path / "run" / "filtering.csv").exists()
    other = {"data": "clips", "settings": json.dumps({"task": "video_classification"})}
    with pytest.raises(ValueError, match="task must be one whose sets may have masks, image_clas"):
        run(prepare_masks, **other, prepared=prepared / "data", folder=tmp_path / "masks")
