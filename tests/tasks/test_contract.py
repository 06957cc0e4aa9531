"""What every task of the package keeps, and one from outside: losses, scores, bytes, moments."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rectify.controls import VARIANTS
from rectify.gsnr import GsnrObserver, gradient_moments
from rectify.rectified import auxiliary, insert
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.tasks import contract, find, metrics_of, names, preparation_of, settings_of
from rectify.tasks.contract import Machine
from rectify.training import evaluation
from rectify.training.evaluation import headline, item_scores, means
from rectify.training.loop import Hooks, Loop
from rectify.training.recipes import recipe
from rectify.trunks.kinds import as_trunk
from rectify.trunks.trunk import Trunk
from tests.helpers import question_trees, room_trees, toy_task
from tests.helpers.moments import assert_close

CPU = torch.device("cpu")
TOY = "tests.helpers.toy_task"
SIZES = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 14}
ENTRIES = {
    "image_classification": {
        "reader": "biased", "classes": 6, "image_size": 28, "channels": 1, "top_k": 2,
        "sizes": {"train_items": 4, "test_items": 5},
    },
    "video_classification": {
        "task": "video_classification", "reader": "motions", "classes": 10, "image_size": 28,
        "channels": 1, "frames": 4, "top_k": 2, "sizes": {"train_items": 2, "test_items": 2},
    },
    "point_classification": {
        "task": "point_classification", "reader": "solids", "classes": 12, "points": 32,
        "top_k": 2, "sizes": {"train_items": 2, "test_items": 1},
    },
    "motion_forecasting": {
        "task": "motion_forecasting", "reader": "lanes", "top_k": 2,
        "sizes": {"train_items": 24, "test_items": 9},
    },
    "visual_question_answering": {
        "task": "visual_question_answering", "reader": "questions", "image_size": 28,
        "answers": 8, "words": 64, "sizes": {"train_scenes": 30, "test_scenes": 9},
    },
    "image_text_retrieval": {
        "task": "image_text_retrieval", "reader": "captions", "image_size": 28, "words": 64,
        "false_texts": 2, "sizes": {"train_items": 6, "test_items": 7},
    },
    "situated_question_answering": {
        "task": "situated_question_answering", "reader": "rooms", "answers": 11, "words": 64,
        "points": 48, "top_k": 3,
        "sizes": {"seed": 2, "train_rooms": 8, "test_rooms": 3, "stored": 64},
    },
    "pairs": {"task": "pairs", "reader": "pairs", "sizes": {"items": 16}},
    TOY: {"task": TOY, "reader": "none", "points": 24},
}  # fmt: skip
"""A tiny set for each task: a new folder of tasks needs one here."""
TRAINED = [name for name in ENTRIES if name != "pairs"]  # nothing is trained on pairs
WITH_METER = ("visual_question_answering", "image_text_retrieval")
ROOMS = "situated_question_answering"
SHORT = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "lr": 1e-2, "drop_path": 0.0}
PICTURES = {"lr_batch_size": None, "crop": "padded", "auto_augment": None}


def recipe_of(name):
    """A short recipe that a task takes: clouds are not changed as pictures are."""
    if name == "point_classification":
        return recipe("point-bert", **SHORT)
    if name == "motion_forecasting":
        return recipe("pang-vectornet", **SHORT)
    if name in WITH_METER:
        own = "meter" if name == "visual_question_answering" else "meter-retrieval"
        return recipe(own, **SHORT, crop="none", auto_augment=None)
    if name == "visual_question_answering":
        return recipe("meter", **SHORT, crop="none", auto_augment=None)
    if name == ROOMS:
        return recipe("sqa3d", **SHORT)
    return recipe("paper", **SHORT, **PICTURES)


def entry_of(name):
    return settings_of(name).model_validate(ENTRIES[name])


def vision_of(name):
    vit = SimpleNamespace(
        name="vit", timm="vit_tiny_patch16_224", overrides=SIZES, family=None, start=None
    )
    if name == "point_classification":
        sizes = {"dim": 16, "depth": 2, "heads": 2, "groups": 6, "group_size": 4, "width": 4}
        vit = SimpleNamespace(name="bert", timm="none", overrides=sizes, family=None, start=None)
    if name == "motion_forecasting":
        sizes = {"width": 4, "layers": 2, "modes": 3}
        vit = SimpleNamespace(name="net", timm="none", overrides=sizes, family=None, start=None)
    if name in WITH_METER:
        sizes = {**question_trees.SIZES, "patch_size": 14, "dropout": 0.0}
        vit = SimpleNamespace(name="meter", timm="none", overrides=sizes, family=None, start=None)
    if name == ROOMS:
        sizes = room_trees.SIZES
        vit = SimpleNamespace(name="sqa3d", timm="none", overrides=sizes, family=None, start=None)
    return toy_task.VISION if name == TOY else vit


def write(name, folder: Path) -> Path:
    prepared = preparation_of(name)("toy", entry_of(name), None, 1)
    prepared.write(folder, provenance(0))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A prepared set of each task."""
    return {name: write(name, tmp_path_factory.mktemp("set")) for name in ENTRIES}


@pytest.fixture(params=TRAINED)
def prepared(request, folders):
    """Name, task, entry and folder of each task that trains a model."""
    name = request.param
    return name, find(name), entry_of(name), folders[name]


def trunk_of(name):
    torch.manual_seed(0)
    return find(name).trunk(entry_of(name), vision_of(name), recipe_of(name))


def training_batch(name, task, entry, folder, samples=8):
    source = task.training_source(entry, folder, recipe_of(name), Machine(CPU))
    draws = torch.rand(samples, 5, dtype=torch.float64, generator=generator(0))
    torch.manual_seed(1)
    return next(iter(source.read(torch.arange(samples), samples, draws)))


def plain_set(name, task, entry, folder):
    return next(task.test_sets(entry, folder, recipe_of(name), Machine(CPU)))


def cut(batch, chosen):
    """Some samples of a batch; what is no sample's own stays."""
    samples = len(next(iter(inputs_of(batch))))

    def part(value):
        return value[chosen] if len(value) == samples else value

    return {
        key: {name: part(one) for name, one in value.items()}
        if isinstance(value, dict)
        else part(value)
        for key, value in batch.items()
    }


def inputs_of(batch):
    inputs = batch["inputs"]
    return inputs.values() if isinstance(inputs, dict) else [inputs]


def test_every_folder_of_tasks_is_here():
    assert set(names()) == set(ENTRIES) - {TOY}


def test_a_task_has_all_of_the_contract(prepared):
    name, task, entry, folder = prepared
    assert isinstance(task, contract.Task)
    assert isinstance(SimpleNamespace(prepare=preparation_of(name)), contract.Preparer)
    assert isinstance(
        task.training_source(entry, folder, recipe_of(name), Machine(CPU)), contract.Source
    )
    assert isinstance(as_trunk(trunk_of(name)), Trunk)
    assert (task.settings, task.metrics) == (settings_of(name), metrics_of(name))
    assert task.starts(vision_of(name)) == []


@pytest.mark.parametrize("name", ENTRIES)
def test_preparing_twice_gives_equal_bytes(name, folders, tmp_path):
    again = write(name, tmp_path)
    files = sorted(path.name for path in again.iterdir())
    assert "manifest.csv" in files
    for file in files:
        assert (again / file).read_bytes() == (folders[name] / file).read_bytes(), file


@pytest.mark.parametrize("name", ENTRIES)
def test_what_decides_weights_and_scores_gives_back_the_entry_of_a_run(name):
    entry = entry_of(name)
    chosen = entry.that_decides("weights", "scores")
    run = settings_of(name).for_run(json.loads(json.dumps(chosen)))
    assert run.that_decides("weights", "scores") == chosen
    assert set(chosen) & {"reader", "folder", "sizes", "title", "training"} == set()
    marks = ("items", "weights", "recipe", "scores", "masks", "display", "source")
    assert set(entry.that_decides(*marks)) == set(type(entry).model_fields)  # each has a mark


def test_the_losses_equal_a_loop_over_the_samples(prepared):
    name, task, entry, folder = prepared
    batch, trunk = training_batch(name, task, entry, folder), trunk_of(name).eval()
    losses = task.losses(trunk(batch["inputs"]), batch)
    assert losses.shape == (8,)
    for sample in range(8):
        alone = cut(batch, slice(sample, sample + 1))
        (loss,) = task.losses(trunk(alone["inputs"]), alone).tolist()
        assert loss == pytest.approx(losses[sample].item(), rel=1e-4, abs=1e-6)


def test_the_scores_are_one_value_per_item_and_have_loss_and_headline(prepared):
    name, task, entry, folder = prepared
    test = plain_set(name, task, entry, folder)
    assert (test.name, test.group) == ("test", "-")
    scores = item_scores(trunk_of(name), task, test.source, batch_size=7, device=CPU)
    assert {values.shape for values in scores.values()} == {(len(test.source),)}
    assert "loss" in scores
    assert headline(means(scores), task.metrics[0]) == pytest.approx(
        next(iter(scores.values())).mean().item()
    )


def test_the_scores_pool_over_batches_and_processes(prepared, monkeypatch):
    name, task, entry, folder = prepared
    trunk, source = trunk_of(name), plain_set(name, task, entry, folder).source
    expected = item_scores(trunk, task, source, batch_size=1, device=CPU)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(evaluation, "process", lambda rank=rank: (rank, 2))
        monkeypatch.setattr(evaluation, "summed", lambda values: values)
        shares.append(item_scores(trunk, task, source, batch_size=5, device=CPU))
    for score, values in expected.items():
        pooled = shares[0][score] + shares[1][score]  # what `summed` gives each process
        torch.testing.assert_close(pooled, values, rtol=1e-4, atol=1e-5)


def test_the_moments_of_its_gradients_are_those_of_single_samples(prepared):
    name, task, entry, folder = prepared
    batch, trunk = training_batch(name, task, entry, folder), as_trunk(trunk_of(name)).eval()
    if name == ROOMS:  # proposals are alike until the detector's norms know its values
        for norm in (module for module in trunk.modules() if isinstance(module, nn.BatchNorm1d)):
            norm.momentum = 1.0
        trunk.train()(batch["inputs"])
        trunk.eval()
    if name in WITH_METER:  # behind its small first weights gradients are rounding noise
        with torch.no_grad():
            for parameter in trunk.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    moments = gradient_moments(
        trunk,
        batch["inputs"],
        batch,
        task.losses,
        trunk.blocks,
        whole=getattr(trunk, "whole", ()),
    )
    gradients = {key: [] for key in moments}
    named = {
        f"{block}.{key}": parameter
        for block, module in trunk.blocks.items()
        for key, parameter in module.named_parameters()
    }
    assert named.keys() == moments.keys()
    for sample in range(8):
        alone = cut(batch, slice(sample, sample + 1))
        loss = task.losses(trunk(alone["inputs"]), alone).sum()
        for key, gradient in zip(
            named, torch.autograd.grad(loss, list(named.values())), strict=True
        ):
            gradients[key].append(gradient)
    stacks = {key: torch.stack(found) for key, found in gradients.items()}
    oracle = {key: (g.mean(0), g.var(0, correction=0)) for key, g in stacks.items()}
    assert_close(moments, oracle, 1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.slow
def test_every_variant_trains_and_is_measured(prepared, block, variant):
    name, task, entry, folder = prepared
    model = as_trunk(trunk_of(name))
    if variant in ("insert", "residual"):
        residual = variant == "residual"
        model = insert(model, block, "end", generator=generator(0), residual=residual)
    if variant == "auxiliary":
        model = auxiliary(model, block, generator=generator(0))
    trunk = model if variant == "vanilla" else model.trunk
    observer = GsnrObserver(trunk.blocks, batches=1, whole=getattr(trunk, "whole", ()))
    training = task.training_source(entry, folder, recipe_of(name), Machine(CPU))
    loop = Loop(
        model,
        task,
        training,
        recipe_of(name),
        seed=0,
        device=CPU,
        lambda_init=0.35 if variant == "auxiliary" else 0.0,
        observer=observer,
    )
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    source = plain_set(name, task, entry, folder).source

    def evaluate(model: nn.Module) -> dict[str, float]:
        return means(item_scores(model, task, source, batch_size=8, device=CPU))

    rows = loop.run(Hooks(evaluate, lambda state: None))
    assert (rows[-1].auxiliary_loss is None) == (variant != "auxiliary")
    assert len(observer.rows(1)) == 4 * len(trunk.blocks)
    moved = [key for key, one in model.named_parameters() if not torch.equal(one, before[key])]
    trained = [key for key, one in model.named_parameters() if one.requires_grad]
    assert moved == trained
