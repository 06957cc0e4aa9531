"""Activations of clouds' tokens against their points, each number also by plain loops."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rectify.data.clouds import CloudSet, listing_of, save_clouds
from rectify.filtering.layout import layout_of
from rectify.filtering.measure import measure, outlines, save_pictures
from rectify.filtering.places import recording
from rectify.filtering.settings import Filtering
from rectify.rectified import auxiliary, insert
from rectify.results.declared import FILTERING, MASKS
from rectify.results.provenance import provenance
from rectify.results.tables import write_table
from rectify.runtime import generator
from rectify.tasks.contract import Machine, Source
from rectify.tasks.point_classification.masks import Masks
from rectify.tasks.point_classification.settings import Settings
from rectify.tasks.point_classification.task import TASK
from rectify.training.recipes import recipe
from rectify.trunks.point_bert import PointBert
from tests.helpers.cloud_trees import drawn
from tests.helpers.training import CPU

STORED, POINTS, GROUPS, SIZE = 48, 32, 6, 5
SIZES = {"dim": 16, "depth": 2, "heads": 2, "groups": GROUPS, "group_size": SIZE, "width": 4}
KEYS = {"reader": "solids", "classes": 12, "points": POINTS, "sizes": {"variant": "bg"}}
THRESHOLDS = [tenth / 10 for tenth in range(1, 10)]
Item = list[list[float]]


@pytest.fixture(scope="module")
def clouds() -> CloudSet:
    """Twelve test clouds, of which the sixth has no object and the last is all of one."""
    test = drawn(STORED, "bg", train=1)["test"]
    test.objects[5], test.objects[-1] = False, True
    return test


@pytest.fixture(scope="module")
def folder(clouds: CloudSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clouds")
    save_clouds(folder, {"test": clouds}, provenance())
    listing = listing_of({"test": clouds})
    rows = [(item, 1, row.name, row.source) for item, row in enumerate(listing.itertuples())]
    write_table(MASKS, rows, folder / "masks" / "masks.csv", provenance())
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    values = recipe("point-bert", batch_size=8)
    entry = Settings.model_validate(KEYS)
    return next(TASK.test_sets(entry, folder, values, Machine(CPU))).source


@pytest.fixture(scope="module")
def masks(folder: Path) -> Masks:
    entry = Settings.model_validate(KEYS)
    return TASK.masks(entry, folder, folder / "masks", recipe("point-bert"))


def trunk() -> PointBert:
    torch.manual_seed(0)
    return PointBert.of(SIZES, classes=12, points=POINTS).eval()


@pytest.fixture
def model(block: nn.Module) -> nn.Module:
    return insert(trunk(), block, "middle", generator=generator(0)).eval()


def distance(left: list[float], right: list[float]) -> float:
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def farthest(points: Item, count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        gaps = [min(distance(point, points[one]) for one in chosen) for point in points]
        chosen.append(gaps.index(max(gaps)))
    return chosen


def groups_of(points: Item) -> list[list[int]]:
    """Return the points of each group, the nearest to its centre first."""
    centres = [points[one] for one in farthest(points, GROUPS)]
    return [
        sorted(range(len(points)), key=lambda one, centre=centre: distance(points[one], centre))[
            :SIZE
        ]
        for centre in centres
    ]


def seen(clouds: CloudSet, item: int) -> tuple[Item, list[bool]]:
    """Return the points that the model takes, and which are of the object."""
    stored = clouds.points[item].double().tolist()
    chosen = farthest(stored, POINTS)
    objects = clouds.objects[item].tolist()
    return [stored[one] for one in chosen], [objects[one] for one in chosen]


def lengths(tokens: Item) -> list[float]:
    """Return the length of each token less their mean, scaled to 0..1."""
    mean = [sum(column) / len(tokens) for column in zip(*tokens, strict=True)]
    raw = [math.sqrt(distance(token, mean)) for token in tokens]
    return [(value - min(raw)) / (max(raw) - min(raw)) for value in raw]


def overlap(values: list[float], inside: set[int], threshold: float) -> float:
    above = {token for token, value in enumerate(values) if value > threshold}
    return len(above & inside) / len(above | inside)


def wins(values: list[float], inside: set[int]) -> float | None:
    outside = set(range(len(values))) - inside
    pairs = list(itertools.product(inside, outside))
    scores = [(values[i] > values[o]) + 0.5 * (values[i] == values[o]) for i, o in pairs]
    return sum(scores) / len(pairs) if pairs else None


def tokens_by_hand(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """Return the tokens of groups at some places, from the parts of the model."""
    inner, bridge = model.trunk, model.bridge
    with torch.no_grad():
        first = inner.run(inner.embed(inputs), 0, 1)
        down = bridge(first.values)
        second = inner.run(first._replace(values=down), 1, 2)
    return {
        "block-0": first.values[:, 1:],
        "F_E": first.values[:, 1:],
        "F_L1": bridge.up(first.values)[:, 1:].detach(),
        "F_L2": down[:, 1:],
        "block-1": second.values[:, 1:],
    }


def mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


@pytest.mark.parametrize("cover", [0.5, 0.8])
def test_every_number_is_that_of_plain_loops(
    model: nn.Module, source: Source, masks: Masks, clouds: CloudSet, cover: float
) -> None:
    measured = measure(model, source, masks, Filtering(cover=cover), seed=0)
    rows = {row[:2]: dict(zip(FILTERING.names, row, strict=True)) for row in measured.rows}
    inside: dict[int, set[int]] = {}
    relative: dict[int, Item] = {}
    for item in range(len(clouds)):
        points, objects = seen(clouds, item)
        groups = groups_of(points)
        shares = [sum(objects[one] for one in group) / SIZE for group in groups]
        inside[item] = {token for token, share in enumerate(shares) if share >= cover and share > 0}
        relative[item] = [
            [points[one][axis] - points[group[0]][axis] for axis in range(3) for one in group]
            for group in groups
        ]
    kept = [item for item in inside if inside[item]]
    assert len(kept) < len(clouds)
    inputs = torch.cat([batch["inputs"] for batch in source.read(torch.tensor(kept), 64)])
    places = tokens_by_hand(model, inputs)
    pixels = [
        max(overlap(lengths(relative[item]), inside[item], t) for t in THRESHOLDS) for item in kept
    ]
    for place, tokens in places.items():
        row = rows[place, "magnitude"]
        maps = [lengths(one) for one in tokens.double().tolist()]
        found = [
            [overlap(values, inside[item], t) for t in THRESHOLDS]
            for item, values in zip(kept, maps, strict=True)
        ]
        assert (row["images"], row["dropped"]) == (len(kept), len(clouds) - len(kept))
        assert row["iou"] == pytest.approx(mean([max(of_item) for of_item in found]))
        by_threshold = [mean(list(of_all)) for of_all in zip(*found, strict=True)]
        assert row["iou_one_t"] == pytest.approx(max(by_threshold))
        assert row["share"] == pytest.approx(mean([len(inside[item]) / GROUPS for item in kept]))
        areas = [wins(values, inside[item]) for item, values in zip(kept, maps, strict=True)]
        assert row["auc"] == pytest.approx(mean(areas))
        assert row["iou_pixels"] == pytest.approx(mean(pixels))
    assert {place for place, _ in rows} == {*places, "F_A", "F_F"}


def test_attention_is_that_of_the_class_token_on_the_groups(
    model: nn.Module, source: Source
) -> None:
    inputs = next(source.read(torch.arange(2), 2))["inputs"]
    with torch.no_grad(), recording(model) as recorded:
        model(inputs)
    weights: list[Tensor] = []
    attention = model.trunk.layers[1].attn
    hook = attention.attn_drop.register_forward_hook(lambda _, given, __: weights.append(given[0]))
    attention.fused_attn = False  # so that the weights are seen
    with torch.no_grad():
        model(inputs)
    hook.remove()
    assert recorded.attention["block-1"].shape == (2, 2, GROUPS, 1)
    expected = weights[0][:, :, 0, 1:]
    torch.testing.assert_close(recorded.attention["block-1"][..., 0], expected)
    assert recorded.attention["F_A"].shape[2:] == (GROUPS, 1)


def test_reading_changes_no_bit_and_the_auxiliary_path_is_gone(
    block: nn.Module, source: Source, masks: Masks
) -> None:
    inputs = next(source.read(torch.arange(4), 4))["inputs"]
    model = auxiliary(trunk(), block, generator=generator(0)).eval()
    with torch.no_grad():
        before = model(inputs)
        with recording(model) as recorded:
            assert torch.equal(model(inputs), before)
    assert set(recorded.features) == {"block-0", "block-1", "F_E"}
    plain = measure(trunk(), source, masks, Filtering(), seed=0).rows
    assert plain == measure(model, source, masks, Filtering(), seed=0).rows


def test_tokens_that_are_long_at_the_object_reach_1(
    source: Source, masks: Masks, clouds: CloudSet
) -> None:
    class Marked(nn.Module):
        """In place of the last block; each token has a direction of its own, none the mean's."""

        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.Identity()

        def forward(self, tokens: Tensor) -> Tensor:
            marked = torch.zeros_like(tokens)
            inside = self.inside[: len(tokens)].float()  # pictures are of fewer
            marked[:, 1:, :GROUPS] = torch.diag_embed(inside)
            return marked

    model = trunk()
    model.layers[1] = Marked()
    layout = layout_of(model)
    batch = next(source.read(torch.arange(12), 12))
    numbers = layout.numbers(masks.read(torch.arange(12), batch), batch["inputs"])
    inside = 2 * numbers.sum(2) >= SIZE
    both = inside.any(1) & ~inside.all(1)
    assert 0 < both.sum() < 12
    model.layers[1].inside = inside[both]
    model.layers[1].attn = trunk().layers[1].attn  # nobody calls it
    masks = Part(masks, both)
    rows = measure(model, source, masks, Filtering(), seed=0).rows
    row = dict(zip(FILTERING.names, next(r for r in rows if r[0] == "F_E"), strict=True))
    assert row["iou"] == row["iou_one_t"] == row["iou_calibrated"] == row["auc"] == 1
    assert 0 < row["iou_permuted"] < 1


class Part:
    """Some of the masks."""

    def __init__(self, masks: Masks, kept: Tensor):
        self.items, self.objects, self.read = masks.items[kept], masks.objects[kept], masks.read


def test_outlines_are_the_iou_of_the_rows(model: nn.Module, source: Source, masks: Masks) -> None:
    rows = measure(model, source, masks, Filtering(), seed=0).rows
    iou = FILTERING.names.index("iou")
    expected = {f"iou/{row[0]}/{row[1]}": row[iou] for row in rows}
    assert outlines(model, source, masks, Filtering()) == expected


def test_pictures_have_the_points_and_the_group_of_each(
    model: nn.Module, source: Source, masks: Masks, clouds: CloudSet, tmp_path: Path
) -> None:
    pictures = measure(model, source, masks, Filtering(), seed=0).pictures
    save_pictures(pictures, tmp_path / "maps.safetensors")
    kept = load_file(tmp_path / "maps.safetensors")
    assert kept["points"].shape == (4, POINTS, 3)
    for item, points, mask, nearest in zip(
        *(kept[name].tolist() for name in ("items", "points", "mask", "nearest")), strict=True
    ):
        expected, objects = seen(clouds, item)
        assert torch.allclose(torch.tensor(points), torch.tensor(expected, dtype=torch.float32))
        assert mask == [int(value) for value in objects]
        centres = [points[one] for one in farthest(points, GROUPS)]
        for point, group in zip(points, nearest, strict=True):
            gaps = [distance(point, centre) for centre in centres]
            assert gaps[group] == pytest.approx(min(gaps))
    assert kept["map/F_L2/magnitude"].shape == (4, GROUPS, 1)
    assert kept["heads/F_A"].shape == (4, 2, GROUPS, 1)
