"""Clouds with captions as Cap3D has them: read, damaged, and compared with a language model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rectify.commands import prepare_data, similarity, vision_features
from rectify.data.clouds import CloudSet, load_clouds
from rectify.data.pairs import captions, identity
from rectify.data.points import farthest_points, taken
from rectify.results.declared import SIMILARITY
from rectify.results.tables import read_table
from rectify.tasks.contract import Machine
from rectify.tasks.pairs.images import as_published
from rectify.tasks.pairs.readers import cap3d, glyph_solids
from rectify.training.recipes import recipe
from rectify.trunks.features import load_features, save_features
from rectify.trunks.point_bert import PointBert
from rectify.trunks.vit import create_vit
from tests.helpers import cloud_trees as trees
from tests.helpers.training import CPU, OVERRIDES, run, settings_of, training

pytestmark = pytest.mark.usefixtures("restored_runtime")

ITEMS, POINTS = 24, 64
CLOUDS = "point_classification"
SIZES = {"dim": 16, "depth": 2, "heads": 2, "groups": 4, "group_size": 8, "width": 4}


@pytest.fixture(scope="module")
def pairs() -> CloudSet:
    return glyph_solids.read(points=POINTS, items=ITEMS)["pairs"]


@pytest.fixture
def folder(tmp_path: Path, pairs: CloudSet) -> Path:
    return trees.write_cap3d(tmp_path / "cap3d", pairs)


def prepared(folder: Path, reader: str = "cap3d", **keys: object) -> Path:
    entry = {"task": "pairs", "reader": reader, **keys}
    if reader == "cap3d":
        entry["folder"] = f"{folder}"
    place = folder.parent / f"{reader}-pairs"
    run(prepare_data, data=reader, settings=json.dumps(entry), folder=place)
    return place


def test_pairs_are_read_in_the_order_of_the_list(folder: Path, pairs: CloudSet) -> None:
    found = cap3d.read(folder)["pairs"]
    assert torch.equal(found.points, pairs.points)
    assert found.captions == pairs.captions
    assert found.sources[1] == f"Cap3D_pcs_pt/{1:032x}.pt"
    place = prepared(folder)
    assert captions(place) == list(pairs.captions)
    stored = load_clouds(place, "pairs")
    assert torch.equal(stored.points, pairs.points)
    assert (stored.captions, stored.sources) == (found.captions, found.sources)


def test_a_caption_may_have_commas_and_lines(folder: Path) -> None:
    (folder / "captions.csv").write_text(
        f'{2:032x},"a chair, red\r\nand old"\n\n{0:032x},"a ""cup"""\n'
    )
    assert cap3d.read(folder)["pairs"].captions == ("a chair, red\nand old", 'a "cup"')


def replaced(content: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        torch.save(content, folder / "Cap3D_pcs_pt" / f"{3:032x}.pt")

    return damage


def listed(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "captions.csv").write_text(text)


def with_nan() -> torch.Tensor:
    values = torch.zeros(6, POINTS)
    values[1, 5] = torch.nan
    return values


DAMAGES = {
    "no list": (lambda f: (f / "captions.csv").unlink(), "must list ids and captions, got no file"),
    "an empty list": (listed("\n"), "must list ids and captions, got no line"),
    "one cell": (listed("a\n"), "must be an id and a caption, got a in line 1"),
    "an empty caption": (listed("\na, \n"), "must be an id and a caption, got a,  in line 2"),
    "a path": (listed("../a,b\n"), r"must be an id and a caption, got \.\./a, b in line 1"),
    "a comma": (listed("a,b,c\n"), "must be an id and a caption, got a, b, c in line 1"),
    "twice": (listed("a,b\na,c\n"), "must have one caption, got a in lines 1 and 2"),
    "a cloud gone": (listed("a,b\n"), r"Cap3D_pcs_pt/a\.pt: must be"),
    "points first": (replaced(torch.zeros(2, 9)), r"must be a tensor \(6, points\) .* \(2, 9\)"),
    "whole numbers": (replaced(torch.zeros(6, 9, dtype=torch.int64)), "got Tensor"),
    "a list": (replaced([1.0]), "must be a tensor .* got list"),
    "nan": (replaced(with_nan()), r"must be a tensor .* of finite .* got one of shape \(6, 64\)"),
    "fewer points": (replaced(torch.zeros(6, 9)), "must have the 64 points of the first, got 9"),
    "another object": (replaced(Path("a")), "must be an intact file of tensors, got other objects"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_one_line(folder: Path, name: str) -> None:
    damage, said = DAMAGES[name]
    damage(folder)
    with pytest.raises(ValueError, match=said) as caught:
        cap3d.read(folder)
    assert "\n" not in f"{caught.value}"


def test_equal_clouds_are_refused(folder: Path) -> None:
    content = torch.load(folder / "Cap3D_pcs_pt" / f"{5:032x}.pt")
    replaced(content)(folder)
    with pytest.raises(
        ValueError, match=r"all items of pairs must differ, got .*0005\.pt equal to"
    ):
        prepared(folder)


def trained(tmp_path: Path) -> Path:
    """Return the folder of a small run on drawn letters."""
    entry = {"task": CLOUDS, "reader": "glyph_solids", "classes": 10, "points": 32}
    entry["sizes"] = {"train_items": 2, "test_items": 1}
    run(prepare_data, data="letters", settings=json.dumps(entry), folder=tmp_path / "data")
    values = settings_of(task=CLOUDS)
    values["data"] = {"name": "letters", "task": CLOUDS, "classes": 10, "points": 32}
    values["vision"] |= {"timm": "none", "overrides": SIZES}
    small = {"epochs": 1, "batch_size": 5, "warmup_epochs": 0}
    values["recipe"] = json.loads(recipe("point-bert", **small).model_dump_json())
    training(tmp_path, values)
    return tmp_path


def test_mutual_knn_of_a_language_model_and_point_berts_blocks(
    tmp_path: Path, folder: Path, pairs: CloudSet
) -> None:
    place, made = prepared(folder), trained(tmp_path)
    weights = {"config": made / "config.json", "model": made / "run" / "model.safetensors"}
    how = {"pairs": place, "seed": 0, "threads": 1, "batch-size": 7}
    run(vision_features, **weights, **how, output=tmp_path / "vision.safetensors")
    features, facts = load_features(tmp_path / "vision.safetensors")
    model = PointBert.of(SIZES, classes=10, points=32).eval()
    model.load_state_dict(load_file(weights["model"]), strict=True)
    shown = taken(pairs.points, farthest_points(pairs.points, 32))
    with torch.no_grad():
        tokens = model.embed(shown)
        for block in range(2):
            tokens = model.run(tokens, block, block + 1)
            values = model.head.norm(tokens.values)
            expected = torch.cat([values[:, 0], values[:, 1:].max(1).values], 1)
            torch.testing.assert_close(features[block], expected)
    assert facts["pairs_sha256"] == identity(place)["pairs_sha256"]
    said = {**identity(place), "language": "copy", "first_layer": 0}
    save_features(features.flip(0), said, tmp_path / "language.safetensors")
    run(
        similarity,
        language=tmp_path / "language.safetensors",
        vision=tmp_path / "vision.safetensors",
        k=3,
        quantile=1.0,
        permutations=19,
        threads=1,
        output=tmp_path / "scores.csv",
    )
    scores = read_table(SIMILARITY, tmp_path / "scores.csv")
    grid = scores.pivot(index="language_layer", columns="vision_block", values="mutual_knn")
    assert grid.loc[0, 1] == grid.loc[1, 0] == 1  # the same features, in the other order
    assert grid.loc[0, 0] == grid.loc[1, 1] == pytest.approx(shared(features, 3))


def shared(features: torch.Tensor, k: int) -> float:
    """Return the mean share of common nearest neighbours by cosine, written out."""
    near = []
    for layer in features:
        unit = torch.nn.functional.normalize(layer.double(), dim=1)
        similar = (unit @ unit.T).fill_diagonal_(-2)
        near.append([set(row.topk(k).indices.tolist()) for row in similar])
    return sum(len(a & b) / k for a, b in zip(*near, strict=True)) / len(near[0])


def test_pairs_of_another_kind_are_one_line(tmp_path: Path) -> None:
    made = trained(tmp_path)
    place = prepared(tmp_path / "any", "pairs", image_size=16, sizes={"items": 5})
    weights = {"config": made / "config.json", "model": made / "run" / "model.safetensors"}
    how = {"pairs": place, "seed": 0, "threads": 1, "batch-size": 7}
    said = "a model of clouds must get pairs of such, got images. Name other pairs"
    with pytest.raises(ValueError, match=said):
        run(vision_features, **weights, **how, output=tmp_path / "vision.safetensors")
    clouds = prepared(tmp_path / "any", "glyph_solids", points=16, sizes={"items": 5})
    vit = create_vit("vit_tiny_patch16_224", num_classes=0, image_size=224, overrides=OVERRIDES)
    with pytest.raises(ValueError, match="a model of images must get pairs of such, got clouds"):
        as_published(vit, clouds, Machine(CPU))
