"""The model of a run: untrained, trained, and as a file."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors.torch import save_file
from torch import nn

from rectify.controls import INSERTED
from rectify.data.manifests import label_order
from rectify.language.block import check_origin
from rectify.rectified import AuxiliaryModel, build, export, load_trainable_state, trainable_state
from rectify.results.files import atomic_path
from rectify.runtime import generator, seed_globals
from rectify.tasks.contract import Task, Vision
from rectify.tasks.entry import Entry
from rectify.tensors import read_safetensors
from rectify.training.recipes import Recipe
from rectify.trunks.kinds import as_trunk

FACTS = "facts"  # key of what a model's file says about itself, as JSON
AGAIN = "Name another file, or delete it and make it again."
ADAPTER_INITS = {
    "trunc_normal": None,  # as ``rectify.rectified`` draws them
    "linear": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),  # as torch's linears start
    "xavier": nn.init.xavier_uniform_,
}
"""First weights of the rectifier's two linears, by ``adapter_init`` of a recipe."""


@runtime_checkable
class EveryStepSettings(Protocol):
    """How the noise of every step is measured."""

    samples: int
    steps: int


@runtime_checkable
class GsnrSettings(Protocol):
    """What is measured while training."""

    batches: int
    xi: float
    mode: str
    loss: str
    group: str
    model: str
    labels: str
    parameters: str
    every_step: EveryStepSettings | None


@runtime_checkable
class VisionSettings(Vision, Protocol):
    """The trunk, and how many blocks it has."""

    depth: int


@runtime_checkable
class RunSettings(Protocol):
    """What decides a run's weights: ``config.json``, as ``rectify.experiment.run`` parses it."""

    run: str
    task: str
    data: dict[str, object]
    vision: VisionSettings
    variant: str
    control: str
    language: str | None
    layer: int | str | None
    insert_at: int | None
    lambda_init: float
    lambda_floor: float
    final_norm: str
    recipe: Recipe
    gsnr: GsnrSettings

    def model_dump(self, *, mode: str) -> dict[str, object]: ...


def entry_of(settings: RunSettings, task: Task, scores: Mapping[str, object] = {}) -> Entry:
    """Return the settings of a run's set: what decides its weights, and how it is scored."""
    fields = {key: value for key, value in settings.data.items() if key != "name"}
    return task.settings.for_run({**fields, **scores})


def untrained(settings: RunSettings, task: Task, block: Path | None, seed: int) -> nn.Module:
    """Return a run's model as its training starts; the trunk's weights depend on the seed alone.

    Raises:
        ValueError: If the block is missing or another one, the trunk has another depth than the
            settings say, or a file of weights is damaged or of another model.
    """
    seed_globals(seed, "vit")
    trunk = task.trunk(entry_of(settings, task), settings.vision, settings.recipe)
    _check_depth(settings, trunk)
    return _built(settings, trunk, block, seed)


def trained(
    settings: RunSettings, task: Task, block: Path | None, seed: int, weights: Path
) -> nn.Module:
    """Return a run's trained model as it is used at test time.

    Raises:
        ValueError: As ``untrained``, or if the weights are damaged or of another model.
    """
    state, _ = read_safetensors(weights, AGAIN)
    seed_globals(seed, "vit")
    model = task.trunk(entry_of(settings, task), settings.vision, None)
    _check_depth(settings, model)
    if settings.variant in INSERTED:
        model = _built(settings, model, block, seed)
    load_trainable_state(model, state, f"{weights}")
    return model


def save_model(model: nn.Module, facts: Mapping[str, object], path: Path) -> None:
    """Write a trained model as it is used at test time: a plain trunk where it has one."""
    state = export(model) if isinstance(model, AuxiliaryModel) else trainable_state(model)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        # one entry: safetensors writes two in any order
        save_file(tensors, temporary, {FACTS: json.dumps(facts)})


def check_labels(weights: Path, data: Path) -> None:
    """Check that a model learnt the classes in the order that a prepared set has them.

    Raises:
        ValueError: If the set numbers its classes in another way, or the weights don't say.
    """
    metadata = read_safetensors(weights, AGAIN)[1]
    learnt, prepared = json.loads(metadata.get(FACTS, "{}")).get("label_order"), label_order(data)
    if learnt != prepared:
        raise ValueError(
            f"{weights}: must have learnt the classes in the order of {data}, {prepared[:12]}, got "
            f"{(learnt or 'none')[:12]}. Train the run again on this preparation of the set."
        )


def _check_depth(settings: RunSettings, trunk: nn.Module) -> None:
    """Check that ``insert_at`` was found for a trunk of this depth."""
    depth, found = settings.vision.depth, len(as_trunk(trunk).blocks)
    if depth != found:
        raise ValueError(
            f"{settings.run}: vision.depth must be the number of the trunk's blocks, {found}, got "
            f"{depth}. Delete the run's config.json and resolve it again."
        )


def _built(settings: RunSettings, trunk: nn.Module, block: Path | None, seed: int) -> nn.Module:
    if block is not None:
        check_origin(block, settings.language, settings.layer)
    model = build(
        trunk,
        settings.variant,
        settings.control,
        block=block,
        position=settings.insert_at,
        final_norm=settings.final_norm,
        seed=seed,
    )
    draw = ADAPTER_INITS[settings.recipe.adapter_init]
    bridge = getattr(model, "bridge", None)
    if draw is not None and bridge is not None:
        draws = generator(seed, "bridge")
        for linear in (bridge.up, bridge.down):
            draw(linear.weight, generator=draws)
    return model
