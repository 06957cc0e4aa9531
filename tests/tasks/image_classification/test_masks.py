"""Masks as ImageNet-S stores them: read, checked, matched with their images, cropped like them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pandas import DataFrame
from PIL import Image

from rectify.data.manifests import manifest
from rectify.data.sets import save_files, save_sets
from rectify.demo.scenes import scenes
from rectify.results.declared import MASKS
from rectify.results.provenance import provenance
from rectify.results.tables import write_table
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.masks import Masks
from rectify.tasks.image_classification.prepare_masks import PUBLISHED, prepare
from rectify.tasks.image_classification.readers import scenes as scenes_reader
from rectify.tasks.image_classification.settings import Settings
from rectify.tasks.image_classification.task import TASK
from rectify.training.recipes import recipe
from rectify.typed import parse
from tests.helpers.training import CPU

CLASSES = [f"n{number:08}" for number in range(1, 301)]
NUMBERS = {CLASSES[0]: 1, CLASSES[49]: 50, CLASSES[255]: 256, CLASSES[299]: 300}
SIZE = (50, 40)  # width, height


def colours(numbers: np.ndarray) -> np.ndarray:
    """Return numbers as R + 256 G, written without the code that is tested."""
    pixels = np.zeros((*numbers.shape, 3), np.uint8)
    for row, column in np.ndindex(*numbers.shape):
        pixels[row, column, 1], pixels[row, column, 0] = divmod(int(numbers[row, column]), 256)
    return pixels


def mask_of(number: int) -> np.ndarray:
    """Return a rectangle of the class, one of another class, and a frame that nobody knows."""
    mask = np.zeros(SIZE[::-1], np.int64)
    mask[5:35, 8:30] = number
    mask[10:20, 32:45] = 7
    mask[0], mask[:, 0] = 1000, 1000
    return mask


def write_tree(root: Path) -> None:
    """Write images ``val/<class>/*.JPEG`` and ``s/validation-segmentation/<class>/*.png``."""
    for name in CLASSES:
        (root / "s" / "validation-segmentation" / name).mkdir(parents=True)
    rows = [("train", label, name, f"train/{name}/x.JPEG") for label, name in enumerate(CLASSES)]
    for name, number in NUMBERS.items():
        for item in range(2):
            source = Path("val", name, f"ILSVRC2012_val_{number:05}{item}.JPEG")
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            mask = mask_of(number)
            bright = np.where(mask[..., None] == number, 255, 0).astype(np.uint8)
            Image.fromarray(bright.repeat(3, 2)).save(root / source, quality=100, subsampling=0)
            rows.append(("test", CLASSES.index(name), name, f"{source}"))
            if item == 1:  # the first of each class has no mask
                stored = root / "s" / "validation-segmentation" / name / f"{source.stem}.png"
                Image.fromarray(colours(mask)).save(stored)
    save_files(root / "data", root, manifest(rows), provenance())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write_tree(tmp_path)
    return tmp_path


def entry(tree: Path, **changes: object) -> Settings:
    keys = {"reader": "imagenet", "folder": f"{tree}", "classes": 300, "image_size": 32}
    return parse(Settings, {**keys, "masks": f"{tree / 's'}", **changes}, "data.imagenet")


def prepared(tree: Path, **changes: object) -> tuple[DataFrame, Path]:
    return prepare("imagenet", entry(tree, **changes), tree / "data", tree / "masks", 2)


def written(tree: Path, listing: DataFrame, files: Path) -> Path:
    facts = {"facts": {"files": f"{files}"}}
    write_table(MASKS, listing, tree / "masks" / "masks.csv", facts)
    return tree / "masks"


def test_each_mask_belongs_to_the_test_image_of_its_class_and_name(tree: Path) -> None:
    listing, files = prepared(tree)
    assert files == tree / "s"
    assert listing["number"].tolist() == [1, 50, 256, 300]
    assert listing["item"].tolist() == [1, 3, 5, 7]
    assert listing["name"].tolist() == list(NUMBERS)


def test_a_pixel_s_number_is_red_plus_256_green(tree: Path) -> None:
    masks = Masks(written(tree, *prepared(tree)))
    read = masks.read(torch.tensor([3, 0, 2]))
    expected = [mask_of(number) for number in (300, 1, 256)]
    assert read.tolist() == np.stack(expected).tolist()
    assert {1000, 7, 300} <= set(read.flatten().tolist())


def test_a_mask_is_cropped_where_its_image_is(tree: Path) -> None:
    folder, values = written(tree, *prepared(tree)), recipe("paper")
    masks = TASK.masks(entry(tree), tree / "data", folder, values)
    test = next(TASK.test_sets(entry(tree), tree / "data", values, Machine(CPU))).source
    inputs = next(test.read(masks.items, 4))["inputs"].mean(1)
    shown = masks.read(torch.arange(4)) == masks.objects[:, None, None]
    assert shown.shape == (4, 32, 32)
    is_bright = inputs > (inputs.amax() + inputs.amin()) / 2
    assert (is_bright == shown).float().mean() > 0.97  # bicubic and nearest differ at edges
    assert 0.2 < shown.float().mean() < 0.6
    assert (masks.read(torch.arange(4)) == 7).any()


def test_a_set_that_is_not_resized_has_its_masks_as_they_are(tree: Path) -> None:
    folder = written(tree, *prepared(tree))
    masks = TASK.masks(entry(tree), tree / "data", folder, recipe("paper", crop="padded"))
    assert masks.read(torch.arange(1)).shape == (1, *SIZE[::-1])


FIRST = Path("s", "validation-segmentation", CLASSES[0], "ILSVRC2012_val_000011.png")
DAMAGES = {
    r"must have a test image of its class and name in imagenet, got none": lambda tree: (
        tree / FIRST
    ).rename((tree / FIRST).with_name("other.png")),
    r"must have the size of its image, 50 x 40, got 9 x 8": lambda tree: Image.new(
        "RGB", (9, 8)
    ).save(tree / FIRST),
    r"numbers in a mask must lie in 0\.\.300, .* or be 1000, got 301": lambda tree: Image.fromarray(
        colours(np.full(SIZE[::-1], 301))
    ).save(tree / FIRST),
    r"must be an intact image": lambda tree: (tree / FIRST).write_bytes(b"no image"),
    r"must hold the data set, got no .*validation-segmentation": lambda tree: (tree / "s").rename(
        tree / "other"
    ),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_what_is_wrong_is_one_line(tree: Path, message: str) -> None:
    DAMAGES[message](tree)
    with pytest.raises(ValueError, match=message) as told:
        prepared(tree)
    assert "\n" not in f"{told.value}"


def test_a_folder_without_masks_is_one_line(tree: Path) -> None:
    for path in (tree / "s").rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="must hold one folder of masks per class, got no mask"):
        prepared(tree)


def test_the_full_set_has_the_published_counts(tree: Path, monkeypatch) -> None:
    assert PUBLISHED == {50: 752, 300: 4_097, 919: 12_419}
    with pytest.raises(ValueError, match=r"must have 752, .* or 919 classes, got 4\. Complete"):
        prepared(tree, full=True)
    monkeypatch.setitem(PUBLISHED, 300, 4)
    assert len(prepared(tree, full=True)[0]) == 4


def test_a_set_that_is_drawn_has_masks_of_every_test_image_and_no_folder(tmp_path: Path) -> None:
    sizes = {"train_items": 2, "test_items": 3}
    sets = scenes(image_size=56, seed=0, **sizes)
    save_sets(tmp_path / "data", sets, provenance())
    keys = {"reader": "scenes", "classes": 8, "image_size": 56, "channels": 1, "sizes": sizes}
    drawn = parse(Settings, keys, "data.scenes")
    listing, files = prepare("scenes", drawn, tmp_path / "data", tmp_path / "masks", 1)
    assert files == tmp_path / "masks"
    masks = Masks(written(tmp_path, listing, files))
    assert masks.items.tolist() == list(range(24))
    assert torch.equal(masks.objects, sets["test"].labels + 1)
    expected = np.stack(scenes_reader.draw_masks(image_size=56, **sizes))
    assert masks.read(torch.arange(24)).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="masks must be of images in files, got some for reader"):
        parse(Settings, {**keys, "masks": "any"}, "data.scenes")


def test_a_set_says_whether_it_has_masks(tree: Path) -> None:
    assert entry(tree).has_masks
    assert not entry(tree, masks=None).has_masks
    glyphs = {"reader": "glyphs", "classes": 100, "image_size": 28}
    assert not parse(Settings, glyphs, "data.glyphs").has_masks
    assert parse(Settings, {**glyphs, "reader": "scenes"}, "data.scenes").has_masks


def test_masks_decide_neither_the_weights_nor_the_items_nor_the_scores(tree: Path) -> None:
    plain, other = entry(tree, masks=None), entry(tree)
    for mark in ("items", "weights", "scores", "recipe", "display"):
        assert plain.that_decides(mark) == other.that_decides(mark)
    assert plain.that_decides("masks") != other.that_decides("masks")
