"""The task motion_forecasting: what a scene looks like to a model, and what must not matter."""

import dataclasses
import math
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rectify.data.forecasts import (
    OBSERVED,
    ForecastSet,
    Lanes,
    Scene,
    gathered,
    load_scenes,
    save_scenes,
)
from rectify.data.manifests import ARRAYS, read_listing
from rectify.demo.lanes import CITIES, drawn, lanes
from rectify.gsnr import gradient_moments
from rectify.gsnr.estimators import gsnr
from rectify.rectified import auxiliary, insert
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.tasks.contract import Machine
from rectify.tasks.motion_forecasting.settings import Settings
from rectify.tasks.motion_forecasting.task import TASK, SceneSource
from rectify.training.recipes import recipe
from rectify.trunks.vectornet import VectorNet
from tests.helpers.moments import assert_close

CPU = torch.device("cpu")
SIZES = {"vectornet": {"width": 4, "layers": 2},
         "mmtransformer": {"dim": 8, "layers": 1, "lane_width": 4}}  # fmt: skip
VISION = SimpleNamespace(
    name="small", timm="none", overrides=SIZES["vectornet"], family=None, start=None
)


def entry(**more: object) -> Settings:
    return Settings(reader="lanes", **more)


@pytest.fixture(scope="module")
def scenes() -> ForecastSet:
    return lanes(train_items=12, test_items=1)["train"]


def batch_of(scenes: ForecastSet, items: list[int], **more: object) -> dict:
    read = SceneSource(scenes, entry(**more), Machine(CPU), {"ks": torch.tensor([6])})
    return next(iter(read.read(torch.tensor(items), len(items))))


@pytest.fixture(params=SIZES)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = SimpleNamespace(
        **{**vars(VISION), "family": request.param, "overrides": SIZES[request.param]}
    )
    return TASK.trunk(entry(), vision, None).eval()


def test_a_model_sees_a_scene_as_its_scored_agent_does(scenes: ForecastSet) -> None:
    """Origin, heading and every point against plain numbers from the drawn scenes."""
    raw, maps = drawn(seed=0, train_items=12, test_items=1)["train"]
    batch = scenes.batch(torch.arange(12))
    for number, scene in enumerate(raw):
        here, before = scene.tracks[0, 19], scene.tracks[0, 18]
        angle = math.atan2(here[1] - before[1], here[0] - before[0])

        def seen_from(point, here=here, angle=angle):
            x, y = point[0] - here[0], point[1] - here[1]
            return (
                math.cos(angle) * x + math.sin(angle) * y,
                math.cos(angle) * y - math.sin(angle) * x,
            )

        near = [
            agent
            for agent in range(len(scene.tracks))
            if scene.seen[agent, 19] and max(map(abs, seen_from(scene.tracks[agent, 19]))) <= 100
        ]
        assert int((~batch["no_agent"][number]).sum()) == len(near)
        for place, agent in enumerate(near):
            for step in (0, 19, 35, 49):
                found = batch["tracks"][number, place, step].tolist()
                there = bool(scene.seen[agent, step])
                expected = seen_from(scene.tracks[agent, step]) if there else (0, 0)
                assert found == pytest.approx(expected, abs=2e-4)
                assert bool(batch["seen"][number, place, step]) == there
        around = [[seen_from(point) for point in line] for line in maps[CITIES["train"]].points]
        around = [line for line in around if max(abs(c) for p in line for c in p) <= 100]
        there = ~batch["no_lane"][number]
        assert int(there.sum()) == len(around)
        torch.testing.assert_close(
            batch["lanes"][number][there], torch.tensor(around).float(), atol=2e-4, rtol=0
        )


def test_a_prepared_set_is_read_as_it_was_written(scenes: ForecastSet, tmp_path: Path) -> None:
    save_scenes(tmp_path, {"train": scenes}, provenance(0))
    again = load_scenes(tmp_path, "train")
    for name, one in vars(scenes).items():
        other = getattr(again, name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
    assert read_listing(tmp_path)[0]["source"].iloc[3] == "train draw 3"
    with pytest.raises(ValueError, match="must be an intact safetensors file with split test"):
        load_scenes(tmp_path, "test")


class Numbered(dict):
    """The same lanes for whoever asks, a new object each time, as maps that are read have it."""

    def __missing__(self, name: str) -> Lanes:
        return Lanes(np.full((60, 10, 2), float(name)), np.zeros((60, 3), np.uint8))


def test_a_set_is_gathered_without_its_scenes_in_memory(tmp_path: Path) -> None:
    """Of 300 scenes with a map each, 9 MB when written, two scenes and 2 MB are there at a time."""
    given: list[weakref.ref[Scene]] = []
    most, count, agents = 0, 300, 20

    def scenes() -> Iterator[Scene]:
        nonlocal most
        for number in range(count):
            tracks = np.full((agents, 110, 2), float(number))
            one = Scene(tracks, np.ones(tracks.shape[:2], bool), "PIT", f"{number}", "drawn")
            given.append(weakref.ref(one))
            most = max(most, sum(scene() is not None for scene in given))
            yield one

    tracemalloc.start()
    found = gathered(scenes(), Numbered(), observed=50)
    save_scenes(tmp_path, {"train": found}, provenance(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    written = (tmp_path / ARRAYS).stat().st_size
    assert written > count * agents * 110 * 9  # places and whether seen
    assert peak < written / 4
    assert most <= 2
    assert found.near.tolist() == list(range(60 * count))
    assert torch.equal(found.points[:, 3, 1], torch.arange(300.0).double().repeat_interleave(60))


def test_the_model_is_not_given_the_future(scenes: ForecastSet) -> None:
    batch = batch_of(scenes, [0, 1])
    assert batch["inputs"]["tracks"].shape[2] == batch["inputs"]["seen"].shape[2] == OBSERVED
    assert set(batch["inputs"]) == {"tracks", "seen", "no_agent", "lanes", "flags", "no_lane"}


def same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    for name, values in one.items():
        torch.testing.assert_close(values, other[name], rtol=tolerance, atol=tolerance)


def test_a_scene_may_lie_anywhere_and_in_any_direction(model: torch.nn.Module) -> None:
    raw, maps = drawn(seed=0, train_items=4, test_items=1)["train"]
    (city, found), angle = next(iter(maps.items())), 2.1
    rotation = torch.tensor(
        [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
        dtype=torch.float64,
    ).numpy()
    moved = [
        dataclasses.replace(one, tracks=(one.tracks @ rotation + 3000) * one.seen[..., None])
        for one in raw
    ]
    elsewhere = {city: dataclasses.replace(found, points=found.points @ rotation + 3000)}
    outputs = [
        model(batch_of(gathered(list(some), where), [0, 1, 2, 3])["inputs"])
        for some, where in ((raw, maps), (moved, elsewhere))
    ]
    same(*outputs, 2e-3)


def test_agents_and_lanes_may_come_in_any_order(
    model: torch.nn.Module, block: torch.nn.Module, scenes: ForecastSet
) -> None:
    """All but the scored agent, which is the first; with a frozen layer too."""
    inputs = batch_of(scenes, [0, 1, 2])["inputs"]
    draws = generator(0, "order")
    order = torch.cat(
        [
            torch.zeros(1).long(),
            1 + torch.randperm(inputs["no_agent"].shape[1] - 1, generator=draws),
        ]
    )
    lanes_order = torch.randperm(inputs["no_lane"].shape[1], generator=draws)
    other = {
        name: one[:, order if name in ("tracks", "seen", "no_agent") else lanes_order]
        for name, one in inputs.items()
    }
    for rectified in (model, insert(model, block, "end", generator=generator(0)).eval()):
        one, two = rectified(inputs), rectified(other)
        same({name: values[:, order] for name, values in one.items()}, two, 1e-3)


@pytest.mark.parametrize("position", [None, "early", "middle", "end"])
def test_junk_in_the_padding_changes_nothing(
    model: torch.nn.Module, block: torch.nn.Module, scenes: ForecastSet, position: str | None
) -> None:
    inputs = batch_of(scenes, list(range(8)))["inputs"]
    assert inputs["no_agent"].any()
    assert inputs["no_lane"].any()
    junk = {name: one.clone() for name, one in inputs.items()}
    junk["tracks"][inputs["no_agent"]] = 1e3
    junk["seen"][inputs["no_agent"]] = True
    junk["lanes"][inputs["no_lane"]] = -77.0
    junk["flags"][inputs["no_lane"]] = 9.0
    if position is not None:
        model = insert(model, block, position, generator=generator(0)).eval()
    one, other = model(inputs), model(junk)
    there = ~inputs["no_agent"]
    for name, values in one.items():
        assert torch.equal(values[there], other[name][there]), name


def test_map_and_neighbours_change_a_forecast(model: torch.nn.Module, scenes: ForecastSet) -> None:
    inputs = batch_of(scenes, [0, 1, 2])["inputs"]
    before = model(inputs)["trajectories"][:, 0]
    for name in ("no_agent", "no_lane"):
        hidden = {**inputs, name: inputs[name].clone()}
        hidden[name][:, 1:] = True
        assert not torch.allclose(model(hidden)["trajectories"][:, 0], before, atol=1e-3)


def test_a_loss_does_not_depend_on_the_other_scenes(
    model: torch.nn.Module, scenes: ForecastSet
) -> None:
    """Not even through padding: each scene alone, in its own size."""
    together = batch_of(scenes, list(range(6)))
    whole = TASK.losses(model(together["inputs"]), together)
    for number in range(6):
        alone = batch_of(scenes, [number])
        (own,) = TASK.losses(model(alone["inputs"]), alone)
        assert own.item() == pytest.approx(whole[number].item(), rel=1e-4)


@pytest.mark.parametrize(
    ("family", "more"),
    [("vectornet", {}), ("mmtransformer", {}), ("mmtransformer", {"tokens": "proposals"})],
)
def test_where_the_scored_agent_alone_is_learned_it_alone_is_forecast(
    scenes: ForecastSet, family: str, more: dict
) -> None:
    """The same loss and the same gradients as if everybody's forecasts were there."""
    overrides = {**SIZES[family], **more}
    vision = SimpleNamespace(**{**vars(VISION), "family": family, "overrides": overrides})
    batch = doubled(batch_of(scenes, [0, 1, 2], loss_agents="focal"))
    outputs, losses, gradients = {}, {}, {}
    for who in ("all", "focal"):
        torch.manual_seed(0)
        model = TASK.trunk(entry(loss_agents=who), vision, None).double()
        outputs[who] = model(batch["inputs"])
        losses[who] = TASK.losses(outputs[who], batch)
        gradients[who] = torch.autograd.grad(losses[who].sum(), list(model.parameters()))
    agents = batch["inputs"]["no_agent"].shape[1]
    assert agents > 1
    for name, everybody in outputs["all"].items():
        assert everybody.shape[1] == agents
        assert outputs["focal"][name].shape[1] == 1
        torch.testing.assert_close(outputs["focal"][name], everybody[:, :1])
    torch.testing.assert_close(losses["focal"], losses["all"])
    torch.testing.assert_close(gradients["focal"], gradients["all"])


@pytest.mark.parametrize("way", ["vanilla", "insert", "auxiliary"])
def test_gsnr_is_that_of_single_scenes(
    model: torch.nn.Module, block: torch.nn.Module, scenes: ForecastSet, way: str
) -> None:
    """Their own backward passes, one by one; but for the key's bias, whose gradient is 0."""
    if way == "insert":
        model = insert(model, block, "middle", generator=generator(0))
    if way == "auxiliary":
        model = auxiliary(model, block, generator=generator(0))
    model = model.double()
    trunk = model if way == "vanilla" else model.trunk
    batch = doubled(batch_of(scenes, list(range(6))))

    def losses(outputs: object, batch: dict) -> Tensor:
        if isinstance(outputs, tuple):
            return sum(TASK.losses(one, batch) for one in outputs)
        return TASK.losses(outputs, batch)

    model.training = way == "auxiliary"  # both paths
    moments = gradient_moments(model, batch["inputs"], batch, losses, trunk.blocks)
    named = {
        f"{block_name}.{name}": one
        for block_name, part in trunk.blocks.items()
        for name, one in part.named_parameters()
    }
    assert moments.keys() == named.keys()
    found = []
    for number in range(6):
        alone = doubled(batch_of(scenes, [number]))
        loss = losses(model(alone["inputs"]), alone).sum()
        found.append(torch.autograd.grad(loss, list(named.values())))
    stacks = dict(zip(named, map(torch.stack, zip(*found, strict=True)), strict=True))
    keys = [name for name in stacks if name.endswith("key.bias")]
    assert keys
    for key in keys:
        query = stacks[key.replace("key", "query")]
        assert stacks[key].abs().max() < 1e-8 * query.abs().max()
    own = {name: (one.mean(0), one.var(0, correction=0)) for name, one in stacks.items()}
    assert_close(moments, own, 1e-5)
    without = {name: one for name, one in moments.items() if name not in keys}
    assert gsnr(moments) == gsnr(without)  # rounding noise of the key's bias is left out


def doubled(batch: dict) -> dict:
    """Return a batch in double precision, as the losses see it."""
    inputs = {
        name: one.double() if one.is_floating_point() else one
        for name, one in batch["inputs"].items()
    }
    return {**batch, "inputs": inputs}


def test_a_scene_that_is_in_a_batch_twice_is_known_by_its_origin(scenes: ForecastSet) -> None:
    read = SceneSource(scenes, entry(), Machine(CPU))
    draws = torch.rand(3, 5, dtype=torch.float64, generator=generator(0))
    (batch,) = read.read(torch.tensor([1, 5, 1]), 3, draws)
    assert batch["origins"].tolist() == [[1], [5], [1]]


def test_answers_are_the_scored_agent_s_forecasts_the_most_likely_first(
    model: torch.nn.Module, scenes: ForecastSet
) -> None:
    batch = batch_of(scenes, [3, 0, 7])
    outputs = model(batch["inputs"])
    answers = TASK.answers(outputs, batch)
    for scene in range(3):
        likely = outputs["scores"][scene, 0].tolist()
        order = sorted(range(6), key=lambda mode: -likely[mode])
        total = sum(map(math.exp, likely))
        shares = [math.exp(likely[mode]) / total for mode in order]
        assert answers["probabilities"][scene].tolist() == pytest.approx(shares, rel=1e-5)
        ways = answers["trajectories"][scene].unflatten(0, (6, 30, 2))
        assert torch.equal(ways, outputs["trajectories"][scene, 0, order])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"timm": "vit_tiny_patch16_224"}, "small must have timm: none and no start"),
        ({"start": "file"}, "small must have timm: none and no start"),
        (
            {"family": "mmtransformers"},
            "family of small: must be a known form .* Did you mean mmtransformer",
        ),
    ],
)
def test_another_trunk_is_refused(change: dict, said: str) -> None:
    vision = SimpleNamespace(**{**vars(VISION), **change})
    with pytest.raises(ValueError, match=said):
        TASK.trunk(entry(), vision, None)


def test_a_vectornet_is_what_is_not_named_otherwise() -> None:
    assert isinstance(TASK.trunk(entry(), VISION, None), VectorNet)


def test_what_changes_images_is_refused(tmp_path: Path) -> None:
    changed = recipe("pang-vectornet", flip=0.5)
    with pytest.raises(ValueError, match=r"training\.flip must be 0, .* recipe pang-vectornet"):
        TASK.training_source(entry(), tmp_path, changed, Machine(CPU))
