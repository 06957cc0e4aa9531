"""How many inputs an evaluation has: against a hook while one runs, and by hand."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rectify.data.manifests import counts
from rectify.data.sets import ImageSet, listing_of
from rectify.experiment.grid import read, recipe_of
from rectify.experiment.items import inputs_scored, inputs_tested, items_about, items_masked
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.work import count, subject
from rectify.results.declared import MASKS
from rectify.results.files import write_json
from rectify.results.provenance import provenance
from rectify.results.tables import write_table
from rectify.tasks import find, preparation_of
from rectify.tasks.contract import Machine
from rectify.tasks.entry import TrunkSettings
from rectify.tasks.preparation import PreparedImages
from rectify.training.evaluation import item_values
from rectify.trunks.kinds import as_trunk
from tests.helpers.configs import PAPER, changed
from tests.helpers.question_trees import SIZES as METER

CPU = torch.device("cpu")
VIT = {"embed_dim": 8, "num_heads": 1, "depth": 1, "patch_size": 14}
CLOUDS = {"dim": 8, "depth": 1, "heads": 2, "groups": 4, "group_size": 4, "width": 4}
DATA = {
    "glyphs": {
        "reader": "glyphs",
        "classes": 2,
        "image_size": 28,
        "channels": 1,
    },
    "solids": {
        "task": "point_classification",
        "reader": "solids",
        "classes": 12,
        "points": 32,
        "votes": 3,
        "sizes": {"train_items": 1, "test_items": 2},
        "training": {"batch_size": 8},
    },
    "captions": {
        "task": "image_text_retrieval",
        "reader": "captions",
        "false_texts": 5,
        "sizes": {"train_items": 6, "test_items": 12},
        "image_size": 28,
        "words": 64,
        "training": {"batch_size": 8},
    },
}
VISIONS = {
    "glyphs": {"timm": "vit_tiny_patch16_224", "overrides": VIT},
    "solids": {"timm": "none", "overrides": CLOUDS},
    "captions": {"timm": "none", "overrides": METER | {"patch_size": 14}},
}
PAIRS = {"captions": 6}
"""What a model is shown of an item at once: pairs with so many candidates."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small_plan(name: str) -> Plan:
    vision = f"small-{name}"
    experiment = {"data": name, "vision": vision}
    values = {"data": {name: DATA[name]}, "visions": {vision: {"title": "Small"} | VISIONS[name]}}
    values |= {"results": "results", "seeds": [0], "experiments": {"one": experiment}}
    return Plan(read(values))


def shifted() -> PreparedImages:
    """Return a drawn set whose shifted test sets are among its splits, as glyphs have them."""
    sizes = {"train": 2, "test": 5, "test-faces": 3, "test-c/blur/1": 4, "test-c/blur/2": 2}
    made = {
        split: ImageSet(
            torch.zeros(items, 1, 28, 28, dtype=torch.uint8),
            torch.arange(items) % 2,
            ("a", "b"),
            tuple(f"{split} {item}" for item in range(items)),
            final_size=True,
        )
        for split, items in sizes.items()
    }
    return PreparedImages(listing_of(made), made)


def noted(plan: Plan, name: str, shift: str | None = None, **items: int) -> None:
    """Write what a preparation notes, as far as it is read here."""
    facts = {"settings": plan.config.data[name].preparation(shift), "items": items}
    place = Path(plan.prepared(name)).parent / (f"shift-{shift}" if shift else "")
    write_json(place / "manifest.csv.json", {"provenance": {"facts": facts}})


@pytest.mark.parametrize("name", DATA)
def test_an_evaluation_runs_as_many_inputs_as_are_forecast(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook counts what goes through the first block while every part of an evaluation runs.

    Of clouds and images, whose sizes are known, the products are counted, too.
    """
    plan = small_plan(name)
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}")
    entry, run = plan.config.data[name], Run(name, f"small-{name}")
    task, recipe = find(entry.task), recipe_of(plan.config, run)
    prepared = shifted() if name == "glyphs" else preparation_of(entry.task)(name, entry, None, 1)
    prepared.write(Path(name), provenance(0))
    noted(plan, name, **counts(prepared.listing))
    model = task.trunk(entry, TrunkSettings(**subject(plan, run).vision), None)
    seen, axes = [], 2 if name in PAIRS else 1

    def passed(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape[:axes].numel())

    next(iter(as_trunk(model).blocks.values())).register_forward_pre_hook(passed)
    how = {"batch_size": recipe.batch_size, "device": CPU}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for part in task.test_sets(entry, Path(name), recipe, Machine(CPU)):
            item_values(model, task.scores, part.source, **how)
    found = inputs_scored(plan, name)
    assert sum(seen) == found * PAIRS.get(name, 1) >= items_about(plan, name, "test")
    if name in ("glyphs", "solids"):
        assert counter.get_total_flops() == found * count(subject(plan, run)).flops.test


def test_published_sets_and_their_shifts_are_known_before_they_are_prepared() -> None:
    plan = Plan(read(PAPER))
    shifted = 15 * 5 * 50_000 + 7_500 + 50_889 + 30_000
    assert inputs_scored(plan, "imagenet") == 50_000 + shifted
    assert inputs_scored(plan, "ssv2") == 24_777 * 2 * 3
    pairs = 1_000 * 5_000
    assert 16 * inputs_scored(plan, "flickr30k") == 2 * pairs
    assert 16 * inputs_tested(plan, "flickr30k") == pairs
    assert inputs_scored(plan, "vqav2") == inputs_tested(plan, "vqav2") == 214_354


def test_a_shift_that_is_prepared_is_counted_and_any_other_is_said() -> None:
    plan = Plan(read(changed(PAPER, "data.imagenet.full", False)))
    assert inputs_tested(plan, "imagenet") is None
    with pytest.raises(ValueError, match=r"^the items of imagenet are counted by prepare_data$"):
        inputs_scored(plan, "imagenet")
    noted(plan, "imagenet", train=9, test=5)
    with pytest.raises(ValueError, match=r"^the items of shift c of imagenet are"):
        inputs_scored(plan, "imagenet")
    for number, shift in enumerate(["c", "a", "sk", "r"]):
        noted(plan, "imagenet", shift, **{f"test-{shift}/x/{part}": 10**number for part in "12"})
    assert inputs_scored(plan, "imagenet") == 5 + 2 * 1_111


def test_masks_are_as_prepared_or_as_published_at_least_or_one_of_each_item() -> None:
    plan = Plan(read(PAPER))
    entry, rows = plan.config.data["imagenet-pang"], [(7, 1, "n1", "a"), (9, 1, "n1", "b")]
    assert items_masked(plan, "scanobjectnn-bg") == items_about(plan, "scanobjectnn-bg", "test")
    for settings, expected in (
        (None, 752),
        (entry.that_decides("items", "masks"), len(rows)),
        (entry.that_decides("items"), 752),  # as it was before it had masks
    ):
        if settings is not None:
            path = Path(plan.prepared("imagenet-pang")).parent / "masks" / "masks.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_table(MASKS, rows, path, provenance(0, settings=settings))
        assert items_masked(plan, "imagenet-pang") == expected
    plan = Plan(read(changed(PAPER, "data.imagenet-pang.full", False)))
    with pytest.raises(ValueError, match=r"^the masks of imagenet-pang are counted by prepare_ma"):
        items_masked(plan, "imagenet-pang")
