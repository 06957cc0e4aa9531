"""What the tests of training share: a small recipe, a loop on it, commands on a tiny set."""

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from pandas import DataFrame
from torch import Tensor, nn

from rectify.commands import evaluate, train
from rectify.data.sets import ImageSet, save_sets
from rectify.results.declared import HISTORY, SCORES
from rectify.results.provenance import provenance
from rectify.results.tables import read_table
from rectify.tasks.classification import LabelledSource, mixing
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import batched
from rectify.tasks.image_classification.task import TASK
from rectify.training import run as training_run
from rectify.training.loop import Hooks, Loop, State
from rectify.training.recipes import Recipe, recipe

CPU = torch.device("cpu")
PLAIN = {"mixup": 0, "cutmix": 0, "drop_path": 0, "auto_augment": None, "random_erasing": 0}
SMALL = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, "lr": 1e-3, "lr_batch_size": None}
TIMES = ("train_seconds", "items_per_second")

OVERRIDES = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 8}
RECIPE = SMALL | {"crop": "padded", "pad": 2, "auto_augment": None, "random_erasing": 0}


def small(**changes: object) -> Recipe:
    """Return the paper's recipe for a few small steps, with changes."""
    return recipe("paper", **SMALL | {"crop": "padded", "auto_augment": None} | changes)


def source_of(images: ImageSet, values: Recipe, change: Callable | None = None) -> LabelledSource:
    """Return images as a training source, mixed and smoothed as a recipe says."""
    change = change or batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.5)
    mix = mixing(values, len(images.classes))
    return LabelledSource(images.images, images.labels, Machine(CPU), change=change, mix=mix)


def trained(
    model: nn.Module,
    images: ImageSet | LabelledSource,
    values: Recipe,
    *,
    change: Callable | None = None,
    seed: int = 0,
    lambda_init: float = 0.0,
    observer: object | None = None,
    noise: object | None = None,
    saved: State | None = None,
    unmixed: LabelledSource | None = None,
    behind: int = 0,
    **hooks: Callable,
) -> list[dict]:
    """Train a model, and return the rows of its history without times.

    With ``behind`` 1 each step's loss is read after the next step was started, as on a GPU.
    """
    source = images if isinstance(images, LabelledSource) else source_of(images, values, change)
    more = {"seed": seed, "device": CPU, "lambda_init": lambda_init, "observer": observer,
            "noise": noise}  # fmt: skip
    loop = Loop(model, TASK, source, values, unmixed=unmixed, **more)
    loop.behind = behind
    if saved is not None:
        loop.restore(saved)
    quiet = {"evaluate": lambda model: {"test_loss": 0.5}, "save": lambda state: None}
    return [timeless(row) for row in loop.run(Hooks(**quiet | hooks))]


def timeless(row: object) -> dict:
    """Return the fields of a row but its times."""
    return {name: value for name, value in asdict(row).items() if name not in TIMES}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's tensors."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Return whether two states are equal, bit by bit."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def stored(state: State) -> State:
    """Send a state through a file, as a training does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Recorder:
    """An augmentation that keeps what it was given and what it gave."""

    def __init__(self):
        self.given, self.made = [], []
        self.change = batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.5)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        self.given.append(images.clone())
        self.made.append(self.change(images, draws))
        return self.made[-1].clone()


class Counter:
    """An observer that remembers when it was called."""

    def __init__(self, steps: tuple[int, ...] = (1, 3)):
        self.steps, self.watched, self.recorded = frozenset(steps), 0, []
        self.origins, self.parameters = [], []
        self.is_apart = self.is_in_eval = self.is_compiled = False

    def measured_steps(self, steps_per_epoch: int) -> frozenset[int]:
        assert steps_per_epoch == 5
        return self.steps

    @contextlib.contextmanager
    def watch(self, scale: float, origins: Tensor | None) -> Iterator[None]:
        assert scale == 1
        self.origins.append(origins)
        self.watched += 1
        yield

    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None:
        assert (main.ndim, auxiliary) == (0, None)

    def record(self, epoch: int, samples: int) -> None:
        self.recorded.append((epoch, samples))

    def state_dict(self) -> dict[str, int]:
        return {"watched": self.watched}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.watched = state["watched"]


def settings_of(
    variant: str = "vanilla",
    control: str = "frozen",
    data: dict | None = None,
    training: dict | None = None,
    **changes: object,
) -> dict:
    """Return the settings of a run on a tiny set, as ``config.json`` has them.

    Args:
        variant: Of the run.
        control: Of the run.
        data: Changed keys of the set.
        training: Changed values of the recipe.
        changes: Other changed keys.
    """
    named = variant if control == "frozen" else f"{variant}-{control}"
    weight = 0.35 if variant == "auxiliary" else 0.0
    inserted = variant != "vanilla"
    place = "_tiny_layer-1_end" + ("_lambda-0.35" if weight else "") if inserted else ""
    entry = {"name": "toy", "task": "image_classification", "classes": 5, "image_size": 16}
    values = recipe("paper", **RECIPE | (training or {}))
    settings = {
        "run": f"toy_vit-s_{named}{place}",
        "task": "image_classification",
        "data": {**entry, "channels": 1, **(data or {})},
        "vision": {"name": "vit-s", "timm": "vit_tiny_patch16_224", "depth": 2},
        "variant": variant,
        "control": control,
        "language": "tiny" if inserted else None,
        "layer": 1 if inserted else None,
        "position": "end" if inserted else None,
        "insert_at": 2 if inserted else None,
        "lambda_init": weight,
        "lambda_floor": 0.1,
        "final_norm": "unit",
        "recipe": json.loads(values.model_dump_json()),
        "gsnr": {
            "batches": 2,
            "xi": 1e-8,
            "mode": "observe",
            "loss": "total",
            "group": "batch",
            "model": "train",
            "labels": "soft",
            "parameters": "all",
            "every_step": None,
        },
    }
    settings["vision"]["overrides"] = OVERRIDES
    return {**settings, **changes}


def portion(images: ImageSet, items: slice) -> ImageSet:
    """Return some items of a set, at the size that the model takes."""
    pixels, labels = images.images[items].clone(), images.labels[items].clone()
    return ImageSet(pixels, labels, images.classes, images.sources[items], final_size=True)


def write_set(folder: Path, images: ImageSet) -> Path:
    """Write a prepared set with a training set, a test set and shifted ones."""
    shifted = {name: slice(30, 35) for name in ("test-c/noise/3", "test-c/noise/1", "test-r")}
    slices = {"train": slice(0, 24), "test": slice(24, 40), **shifted}
    sets = {split: portion(images, items) for split, items in slices.items()}
    save_sets(folder, sets, provenance())
    return folder


def run(command: ModuleType, **arguments: object) -> object:
    """Run a command in this process, and return what it returns."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = [
        (f"--{key}", *map(str, value if isinstance(value, list) else [value]))
        for key, value in arguments.items()
        if value is not None
    ]
    return command.run(parser.parse_args([word for pair in given for word in pair]))


def training(
    folder: Path, settings: dict, name: str = "run", seed: int = 0, **more: object
) -> DataFrame:
    """Train by the command on ``folder / data``; return the history, one row per epoch."""
    config = folder / "config.json"
    config.write_text(json.dumps(settings))
    places = {"data": folder / "data", "states": folder / "states" / name, "output": folder / name}
    run(train, config=config, seed=seed, threads=more.pop("threads", 1), **places | more)
    return history_of(folder / name)


def history_of(folder: Path) -> DataFrame:
    """Return a run's history, one row per epoch and one column per metric."""
    rows = read_table(HISTORY, folder / "history.csv")
    return rows.pivot(index="epoch", columns="metric", values="value")


def without_times(history: DataFrame) -> str:
    """Return everything of a history that repeats."""
    return history.drop(columns=list(TIMES)).to_csv()


def evaluating(folder: Path, settings: dict, name: str = "run", **more: object) -> DataFrame:
    """Score by the command; return the table."""
    (folder / "config.json").write_text(json.dumps(settings))
    evaluation = json.dumps(more.pop("evaluation", {"top_k": 2}))
    given = {"model": folder / name / "model.safetensors", "data": folder / "data", "seed": 0}
    output = folder / name / "scores.csv"
    run(
        evaluate,
        config=folder / "config.json",
        evaluation=evaluation,
        threads=1,
        output=output,
        **given | more,
    )
    return read_table(SCORES, output)


def share(scores: DataFrame, metric: str = "accuracy", k: int = 1, name: str = "test") -> float:
    """Return one value of a table of scores, over a complete set."""
    chosen = scores["metric"].eq(metric) & scores["k"].eq(k) & scores["set"].eq(name)
    (value,) = scores.loc[chosen & scores["group"].eq("-"), "value"]
    return value


def interrupt_after(monkeypatch: pytest.MonkeyPatch, epochs: int) -> None:
    """Stop the training as by Ctrl-C when the next epoch is to be evaluated."""
    kept, calls = training_run.item_scores, []

    def item_scores(*arguments: object, **options: object) -> dict:
        calls.append(1)
        if len(calls) > epochs:
            raise KeyboardInterrupt
        return kept(*arguments, **options)

    monkeypatch.setattr(training_run, "item_scores", item_scores)


def predictions(folder: Path) -> DataFrame:
    """Return the scores of single items."""
    return pd.read_parquet(folder / "predictions.parquet")
