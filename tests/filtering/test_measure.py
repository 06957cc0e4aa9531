"""A model's activations against masks, from batches to rows: by hand from the recorded tokens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rectify.data.sets import ImageSet
from rectify.filtering.measure import measure, outlines, save_pictures
from rectify.filtering.overlap import TokenMasks, auc, ious
from rectify.filtering.places import recording
from rectify.filtering.settings import Filtering
from rectify.rectified import insert
from rectify.results.declared import FILTERING
from rectify.results.tables import read_table, write_table
from rectify.runtime import generator
from rectify.tasks.classification import LabelledSource
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import normalise
from rectify.trunks.activations import frequency, magnitude, pixel_tokens, scaled
from tests.helpers.training import CPU

NAMES = FILTERING.names


class Drawn:
    """Masks of some images: a square of four patches, half a patch, and one without the object."""

    def __init__(self) -> None:
        self.items = torch.tensor([7, 3, 11, 5, 2, 9])
        self.objects = torch.tensor([1, 2, 1, 300, 2, 1])
        self.pixels = torch.zeros(6, 32, 32, dtype=torch.int64)
        for image, corner in enumerate((0, 8, 16, 0, 8)):
            square = slice(corner, corner + 16)
            self.pixels[image, square, square] = self.objects[image]
        self.pixels[0, 24:, :] = 1000
        self.pixels[5, 0, 0] = 1  # one pixel

    def read(self, images: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return self.pixels[images]


@pytest.fixture
def pictures() -> ImageSet:
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (14, 1, 32, 32), generator=draws, dtype=torch.uint8)
    names = tuple(f"{item}" for item in range(14))
    return ImageSet(pixels, torch.arange(14) % 5, tuple("abcde"), names)


@pytest.fixture
def source(pictures: ImageSet) -> LabelledSource:
    change = lambda images, draws: normalise(images)  # noqa: E731
    return LabelledSource(pictures.images, pictures.labels, Machine(CPU), change=change)


@pytest.fixture
def model(make_vit, block):
    return insert(make_vit(image_size=32), block, "end", generator=generator(0)).eval()


def rows_of(measured) -> dict[tuple[str, str], dict[str, float]]:
    rows = [dict(zip(NAMES, row, strict=True)) for row in measured.rows]
    return {(row["place"], row["activation"]): row for row in rows}


def test_rows_are_those_of_a_pass_by_hand(model, source, pictures) -> None:
    masks = Drawn()
    found = rows_of(measure(model, source, masks, Filtering(), seed=0))
    inputs = normalise(pictures.images[masks.items[:5]])
    with torch.no_grad(), recording(model) as recorded:
        model(inputs)
    inside = torch.zeros(5, 4, 4, dtype=torch.bool)
    for image, corner in enumerate((0, 1, 2, 0, 1)):
        inside[image, corner : corner + 2, corner : corner + 2] = True
    known = torch.ones(5, 4, 4, dtype=torch.bool)
    known[0, 3] = False
    tokens = TokenMasks(inside.flatten(1), known.flatten(1))
    maps = {(p, "magnitude"): magnitude(t) for p, t in recorded.features.items()}
    maps |= {(p, "frequency"): frequency(t) for p, t in recorded.features.items()}
    maps |= {(p, "attention"): scaled(h.sum(1)) for p, h in recorded.attention.items()}
    assert set(found) == set(maps)
    pixels = ious(magnitude(pixel_tokens(inputs, (4, 4))).flatten(1), tokens).amax(1).mean()
    for name, values in maps.items():
        table, row = ious(values.flatten(1), tokens), found[name]
        assert (row["images"], row["dropped"]) == (5, 1)
        assert row["iou"] == pytest.approx(table.amax(1).mean().item(), rel=1e-5)
        assert row["iou_one_t"] == pytest.approx(table.mean(0).amax().item(), rel=1e-5)
        best = round(10 * row["threshold"]) - 1
        assert table.mean(0)[best] == table.mean(0).amax()
        assert row["iou_pixels"] == pytest.approx(pixels.item(), rel=1e-5)
        assert row["share"] == pytest.approx((4 / 12 + 4 * 4 / 16) / 5)
        assert row["auc"] == pytest.approx(auc(values.flatten(1), tokens).mean().item(), rel=1e-5)
        lift = (row["iou"] - row["iou_permuted"]) / (1 - row["iou_permuted"])
        assert row["iou_calibrated"] == pytest.approx(lift)
        assert row["iou_one_t"] <= row["iou"]


def test_a_map_that_is_the_mask_reaches_1_above_its_floors(make_vit, source) -> None:
    """The last block is replaced by one whose tokens are long where the object is."""

    class Exact(torch.nn.Module):
        def __init__(self, inside: Tensor):
            super().__init__()
            self.inside, self.attn = inside, torch.nn.Identity()

        def forward(self, tokens: Tensor) -> Tensor:
            inside = self.inside[: len(tokens)].float()  # pictures are of fewer images
            marked = torch.cat([torch.zeros(len(tokens), 1), inside], 1)
            return torch.zeros_like(tokens).index_fill(2, torch.tensor([3]), 1) * marked[..., None]

    masks, vit = Drawn(), make_vit(image_size=32, overrides={"class_token": True}).eval()
    inside = masks.pixels.eq(masks.objects[:, None, None]).unflatten(1, (4, 8)).unflatten(3, (4, 8))
    vit.has_class_token = False  # so that nobody asks for the attention of the new block
    vit.blocks[3] = Exact(inside.float().mean((2, 4)).flatten(1) > 0.5)
    row = rows_of(measure(vit, source, masks, Filtering(), seed=0))["F_E", "magnitude"]
    assert row["iou"] == row["iou_one_t"] == row["iou_calibrated"] == row["auc"] == 1
    assert 0 < row["iou_permuted"] < row["share"]  # of a map as sparse as the mask


@pytest.mark.parametrize(
    ("changed", "activation"),
    [
        ({"cover": 0.0}, "magnitude"),
        ({"center": "column"}, "magnitude"),
        ({"center": "column"}, "frequency"),
        ({"after_attention": "update"}, "magnitude"),
    ],
)
def test_every_key_has_an_effect(model, source, changed, activation) -> None:
    rows = [
        rows_of(measure(model, source, Drawn(), Filtering(**keys), seed=0))["F_A", activation]
        for keys in ({}, changed)
    ]
    assert rows[0] != rows[1]
    assert rows[1]["dropped"] == (0 if "cover" in changed else 1)


def test_the_same_seed_gives_the_same_floors(model, source) -> None:
    first, again, other = (
        rows_of(measure(model, source, Drawn(), Filtering(), seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again
    for name, row in first.items():
        moved = {"iou_permuted", "iou_calibrated"}
        same = {key: value for key, value in other[name].items() if key not in moved}
        assert same.items() <= row.items()
    assert any(other[name]["iou_permuted"] != row["iou_permuted"] for name, row in first.items())


def test_the_rows_are_the_declared_table(model, source, tmp_path: Path) -> None:
    rows = measure(model, source, Drawn(), Filtering(), seed=0).rows
    write_table(FILTERING, rows, tmp_path / "filtering.csv", {})
    assert len(read_table(FILTERING, tmp_path / "filtering.csv")) == 2 * (4 + 5) + 2


def test_maps_of_a_few_images_are_kept_for_pictures(model, source, tmp_path, pictures) -> None:
    masks = Drawn()
    save_pictures(
        measure(model, source, masks, Filtering(), seed=0).pictures, tmp_path / "maps.safetensors"
    )
    kept = load_file(tmp_path / "maps.safetensors")
    assert kept["items"].tolist() == [7, 3, 5, 2]
    assert kept["image"].shape == (4, 1, 32, 32)
    assert kept["mask"][2].sum() == 256
    assert kept["heads/F_A"].shape == (4, 2, 4, 4)
    assert kept["heads/block-3"].shape == (4, 2, 4, 4)
    with torch.no_grad(), recording(model) as recorded:
        model(normalise(pictures.images[kept["items"]]))
    for place, tokens in recorded.features.items():
        expected = magnitude(tokens)
        torch.testing.assert_close(kept[f"map/{place}/magnitude"], expected, rtol=1e-4, atol=1e-5)
    assert "map/pixels/magnitude" in kept


def test_masks_that_no_token_is_in_are_one_line(model, source) -> None:
    masks = Drawn()
    masks.pixels.zero_()
    with pytest.raises(ValueError, match=r"got none in 6 items\. Lower filtering\.cover") as told:
        measure(model, source, masks, Filtering(), seed=0)
    assert "\n" not in f"{told.value}"


def test_outlines_are_the_iou_of_the_rows(model, source) -> None:
    rows = rows_of(measure(model, source, Drawn(), Filtering(), seed=0))
    found = outlines(model, source, Drawn(), Filtering())
    assert found == {f"iou/{place}/{kind}": row["iou"] for (place, kind), row in rows.items()}
