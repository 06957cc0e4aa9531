"""Clouds as the model sees them: chosen, scaled, shifted and voted on; recipes; training."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rectify.data.clouds import CloudSet, save_clouds
from rectify.data.draws import draw, seeds
from rectify.data.points import farthest_points
from rectify.gsnr import GsnrObserver
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.tasks.contract import Machine
from rectify.tasks.point_classification import augment
from rectify.tasks.point_classification.settings import Settings
from rectify.tasks.point_classification.task import TASK, CloudSource
from rectify.training import loop as training_loop
from rectify.training.evaluation import item_scores, means
from rectify.training.loop import Hooks, Loop
from rectify.training.optimizer import optimizer_and_schedule
from rectify.training.recipes import Recipe, recipe
from tests.helpers.cloud_trees import drawn
from tests.helpers.training import same, weights

CPU = torch.device("cpu")
SIZES = {"dim": 8, "depth": 2, "heads": 2, "groups": 4, "group_size": 4, "width": 4}
VISION = SimpleNamespace(name="small", timm="none", overrides=SIZES, family=None, start=None)


def entry(**changes: object) -> Settings:
    return Settings.model_validate(
        {"reader": "solids", "classes": 12, "points": 32, "top_k": 3, **changes}
    )


def values(**changes: object) -> Recipe:
    small = {"batch_size": 8, "epochs": 2, "warmup_epochs": 1, "drop_path": 0.0}
    return recipe("point-bert", **(small | changes))


@pytest.fixture(scope="module")
def clouds() -> CloudSet:
    return drawn(64, "hardest")["train"]


def source(clouds: CloudSet, *, votes: int = 1, **changes: object) -> CloudSource:
    return CloudSource(clouds, entry(**changes), Machine(CPU), values(), votes=votes)


def inputs(
    read: CloudSource, items: list[int], draws: Tensor | None = None, size: int = 8
) -> Tensor:
    return torch.cat([b["inputs"] for b in read.read(torch.tensor(items), size, draws)])


def is_among(points: Tensor, stored: Tensor) -> bool:
    return bool((points[:, None] == stored).all(2).any(1).all())


def test_at_test_a_cloud_is_its_farthest_points_from_the_first(clouds: CloudSet) -> None:
    seen = inputs(source(clouds), [3, 0, 20])
    for cloud, item in zip(seen, (3, 0, 20), strict=True):
        stored = clouds.points[item]
        assert torch.equal(cloud, stored[farthest_points(stored[None], 32)[0]])
    whole = source(clouds, points=64)
    assert torch.equal(inputs(whole, [3, 0]), clouds.points[[3, 0]])


def test_a_cloud_can_be_brought_into_the_unit_ball(clouds: CloudSet) -> None:
    """All stored points count, whichever the model sees."""
    seen = inputs(source(clouds, normalise="unit"), [5])
    stored = clouds.points[5].double()
    centred = stored - stored.mean(0)
    scaled = (centred / centred.norm(dim=1).max()).float()
    torch.testing.assert_close(seen[0], scaled[farthest_points(scaled[None], 32)[0]])
    same_point = torch.zeros(1, 4, 3)
    assert torch.equal(augment.unit_ball(same_point), same_point)


def test_in_training_points_are_a_draw_of_the_surplus_of_farthest_ones(clouds: CloudSet) -> None:
    stored, own = clouds.points[:6], torch.arange(6)
    chosen = augment.drawn_points(stored, 32, own, False)
    starts = set()
    for cloud, points in zip(chosen, stored, strict=True):
        places = [int((points == point).all(1).nonzero()[0, 0]) for point in cloud]
        assert len(set(places)) == 32
        fitting = [
            start
            for start in range(64)
            if set(places)
            <= set(farthest_points(points[None], 37, torch.tensor([start]))[0].tolist())
        ]
        assert fitting  # 37 = 32 * 75 / 64
        starts.add(fitting[0])
    assert len(starts) > 1
    every = augment.drawn_points(stored, 64, own, False)
    assert all(is_among(one, two) for one, two in zip(stored, every, strict=True))
    assert not torch.equal(every, stored)


def test_1200_farthest_points_are_kept_for_1024_as_published() -> None:
    for points, surplus in ((1024, 1200), (2048, 2400), (4096, 4800)):
        assert int(points * augment.SURPLUS) == surplus


def test_scales_and_shifts_are_uniform_in_their_ranges() -> None:
    given = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]).repeat(3000, 1, 1)
    made = augment.scaled_and_shifted(given, torch.arange(3000), 1.5, 0.2)
    shifts, factors = made[:, 0], made[:, 1] - made[:, 0]
    for numbers, low, high in ((factors, 2 / 3, 1.5), (shifts, -0.2, 0.2)):
        assert numbers.min() >= low - 1e-6
        assert numbers.max() <= high + 1e-6
        middle = torch.full((3,), (low + high) / 2)
        torch.testing.assert_close(numbers.mean(0), middle, rtol=0, atol=0.02)
        deviation = torch.full((3,), (high - low) / 12**0.5)
        torch.testing.assert_close(numbers.std(0), deviation, rtol=0.05, atol=0)
    both = torch.cat([factors, shifts], 1).T.corrcoef() - torch.eye(6)
    assert both.abs().max() < 0.08  # each axis has its own
    still = augment.scaled_and_shifted(given, torch.arange(3000), 1.0, 0.0)
    assert torch.equal(still, given)


def test_a_draw_is_the_places_own_whatever_the_batch(clouds: CloudSet) -> None:
    read, draws, items = source(clouds), draw(12, generator(0)), list(range(12))
    whole = inputs(read, items, draws, 12)
    assert torch.equal(inputs(read, items, draws, 5), whole)
    assert torch.equal(inputs(read, items[3:4], draws[3:4]), whole[3:4])
    assert not torch.equal(inputs(read, items, draw(12, generator(1)), 12), whole)
    expected = augment.scaled_and_shifted(
        augment.drawn_points(clouds.points[:12], 32, seeds(draws), False), seeds(draws), 1.5, 0.2
    )
    assert torch.equal(whole, expected)


def test_votes_are_different_views_of_a_cloud_and_the_same_each_time(clouds: CloudSet) -> None:
    read = source(clouds, votes=4)
    assert read.views == 4
    seen = inputs(read, [3, 7], size=2)
    assert seen.shape == (8, 32, 3)
    assert len({view.sum().item() for view in seen}) == 8
    assert torch.equal(inputs(read, [7], size=1), seen[4:])


def test_the_logits_of_votes_are_averaged() -> None:
    logits = torch.randn(6, 12, generator=generator(0, "logits"))
    labels = torch.tensor([4, 9])
    scores = TASK.scores(logits, {"labels": labels, "ks": torch.tensor([3])})
    for item in range(2):
        mean = logits[3 * item : 3 * item + 3].double().mean(0)
        order = mean.argsort(descending=True).tolist()
        assert scores["accuracy@1"][item] == (order[0] == labels[item])
        assert scores["accuracy@3"][item] == (labels[item] in order[:3])
        loss = -mean.log_softmax(0)[labels[item]].item()
        assert scores["loss"][item].item() == pytest.approx(loss, rel=1e-5)


def test_a_cloud_that_is_in_a_batch_twice_is_known_by_its_origin(clouds: CloudSet) -> None:
    read = source(clouds)
    (batch,) = read.read(torch.tensor([1, 5, 1]), 3, draw(3, generator(0)))
    assert batch["origins"].tolist() == [[1], [5], [1]]
    (batch,) = read.read(torch.tensor([1, 5]), 3, draw(2, generator(0)))
    assert "origins" not in batch


def test_labels_can_be_smoothed(clouds: CloudSet) -> None:
    read = CloudSource(clouds, entry(), Machine(CPU), values(label_smoothing=0.12))
    (batch,) = read.read(torch.tensor([0]), 1, draw(1, generator(0)))
    expected = torch.full((1, 12), 0.01)
    expected[0, 0] += 0.88
    torch.testing.assert_close(batch["labels"], expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mixup": 0.5}, "training.mixup must be 0, since it changes images, got 0.5"),
        ({"crop": "padded"}, "training.crop must be none, since it changes images, got padded"),
        ({"flip": 0.5}, "training.flip must be 0"),
        ({"random_erasing": 0.1}, "training.random_erasing must be 0"),
    ],
)
def test_what_changes_images_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        TASK.training_source(entry(), tmp_path, values(**changes), Machine(CPU))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"timm": "vit_tiny_patch16_224"}, {"family": "videomae"}])
def test_another_trunk_is_refused(change: dict) -> None:
    vision = SimpleNamespace(**{**vars(VISION), **change})
    with pytest.raises(ValueError, match="small must have timm: none and no family"):
        TASK.trunk(entry(), vision, None)


def test_the_last_layer_of_the_head_is_scaled() -> None:
    torch.manual_seed(0)
    plain = TASK.trunk(entry(), VISION, values())
    torch.manual_seed(0)
    scaled = TASK.trunk(entry(), VISION, values(head_scale=0.5))
    torch.testing.assert_close(scaled.head.output.weight, plain.head.output.weight / 2)
    assert torch.equal(scaled.head.hidden.weight, plain.head.hidden.weight)


RATES = {
    "point-bert": {"bridge": 5e-4, "small": 5e-4, "other": 5e-4},
    "pang-points": {"bridge": 5e-5, "small": 5e-4, "other": 5e-4},
    "pang-points-code": {"bridge": 2.5e-4, "small": 5e-5, "other": 5e-4},
}


@pytest.mark.parametrize("name", RATES)
def test_each_tensor_has_the_rate_and_decay_of_the_recipe(
    block: torch.nn.Module, name: str
) -> None:
    """As the public codes sort tensors by their names and axes, written out."""
    from rectify.rectified import insert

    model = insert(TASK.trunk(entry(), VISION, values()), block, "end", generator=generator(0))
    optimizer, schedule = optimizer_and_schedule(model, recipe(name), 1)
    schedule.step(10)
    found = {
        one: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for one in group["params"]
    }
    cosine = 1e-6 + (5e-4 - 1e-6) * (1 + torch.cos(torch.tensor(torch.pi * 10 / 300))).item() / 2
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter not in found
            continue
        is_small = parameter.ndim == 1 or key.endswith(".bias") or "token" in key.split(".")[-1]
        kind = "bridge" if key.startswith("bridge.") else "small" if is_small else "other"
        rate, decay = found[parameter]
        assert rate == pytest.approx(cosine * RATES[name][kind] / 5e-4), key
        undecayed = is_small or (kind == "bridge" and name != "point-bert")
        assert decay == (0 if undecayed else 0.05), key


def folder_of(tmp_path: Path) -> Path:
    save_clouds(tmp_path, drawn(64, "hardest"), provenance(0))
    return tmp_path


def train(folder: Path, settings: Recipe, **more: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = TASK.trunk(entry(), VISION, settings)
    of = {"entry": entry(), "folder": folder, "machine": Machine(CPU)}
    read = TASK.training_source(recipe=settings, **of)
    if more.pop("hard", False):
        more["observer"] = GsnrObserver(model.blocks, batches=1, labels="hard")
        more["unmixed"] = TASK.training_source(recipe=settings.unmixed, **of)
    Loop(model, TASK, read, settings, seed=0, device=CPU, **more).run(
        Hooks(lambda model: {"test_loss": 0.5}, lambda state: None)
    )
    return model


def test_a_pass_that_only_measures_leaves_the_running_statistics(tmp_path: Path) -> None:
    folder, settings = folder_of(tmp_path), values(label_smoothing=0.1)
    alone, watched = train(folder, settings), train(folder, settings, hard=True)
    assert same(weights(alone), weights(watched))
    assert int(alone.tokenizer.inner_norm.num_batches_tracked) == 2 * 3


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_loop, "process", lambda: (0, 2))
    with pytest.raises(ValueError, match="norms over the batch must train in one process"):
        train(folder_of(tmp_path), values())


@pytest.mark.slow
def test_a_small_point_bert_learns_the_solids(tmp_path: Path) -> None:
    """In a few seconds, far above chance, which is 1 / 12: the whole path works."""
    save_clouds(tmp_path, drawn(64, "only", train=40, test=20), provenance(0))
    settings = values(epochs=4, batch_size=32, lr=4e-3, lr_per_step=True)
    sizes = {"dim": 32, "depth": 2, "heads": 2, "groups": 8, "group_size": 12, "width": 8}
    vision = SimpleNamespace(**{**vars(VISION), "overrides": {**sizes, "head_dropout": 0.0}})
    torch.manual_seed(0)
    model = TASK.trunk(entry(points=64), vision, settings)
    of = {"entry": entry(points=64), "folder": tmp_path, "machine": Machine(CPU)}
    read = TASK.training_source(recipe=settings, **of)
    hooks = Hooks(lambda model: {"test_loss": 0.5}, lambda state: None)
    Loop(model, TASK, read, settings, seed=0, device=CPU).run(hooks)
    test = next(TASK.test_sets(recipe=settings, **of)).source
    found = means(item_scores(model, TASK, test, batch_size=64, device=CPU))
    assert found["accuracy@1"] > 0.4
    assert found["accuracy@3"] > 0.75
