"""What one training computes for an item, and what it stores: counted, without weights.

FLOPs are all matrix products, as ``rectify.cost`` counts them on torch's ``meta`` device, of items
as the task's ``example`` makes them. Small models wait for operators to be started, so these are
counted, too. Of a language model that reads captions it is one layer, as many times as it has.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

from rectify.controls import INSERTED
from rectify.experiment import grid
from rectify.experiment.codes import code_of
from rectify.experiment.items import Unknown
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.results.remembered import answer, remembered
from rectify.tasks import DEFAULT_TASK
from rectify.tasks.entry import TrunkSettings
from rectify.typed import layers_of

if TYPE_CHECKING:
    from torch import nn

    from rectify.language.block import Block

CODE = ("rectify.cost", "rectify/experiment/work.py", "rectify/language/sizes.yaml")
KIND = "work"  # folder of the cache
CAPTION = 20
"""Tokens of a caption, before there are any: those of the captions of other tasks."""


class Flops(NamedTuple):
    """FLOPs of one item: all, and those of them that the trunk has without any rectifier."""

    training: int
    training_trunk: int
    test: int
    test_trunk: int


class Launches(NamedTuple):
    """Operators that a pass starts, however many items it has; views start none."""

    training: int
    training_trunk: int
    test: int


class Work(NamedTuple):
    """What a training needs, whatever computes it."""

    flops: Flops | None
    """None of a task without ``example``."""
    model_bytes: int
    """Of ``model.safetensors``."""
    state_bytes: int
    """Of a state's weights."""
    optimizer_bytes: int
    """Of a state's moments of the gradients; a finished training's state has none."""
    layer_bytes: int
    """Of the language model's layers, with 2 bytes for a value; 0 where the run has none."""
    blocks: int
    """Of the trunk."""
    width: int
    """Of the trunk's tokens."""
    launches: Launches | None = None
    """None of a task without ``example``."""


class Subject(NamedTuple):
    """What is counted: everything that decides a `Work`."""

    task: str
    entry: dict[str, object]
    vision: dict[str, object]
    """A trunk, by the keys of `TrunkSettings`."""
    variant: str = "vanilla"
    control: str = "frozen"
    language: str | None = None
    """A checkpoint, or a name in ``sizes.yaml``."""
    language_settings: str = ""
    """Content of the checkpoint's ``config.json``, where there is one."""
    layers: int = 1
    insert_at: int | str | None = None
    final_norm: str = "unit"

    @property
    def trunk(self) -> "Subject":
        """The trunk alone."""
        return Subject(self.task, self.entry, self.vision)

    @property
    def key(self) -> str:
        """All of it in one string."""
        return json.dumps(self, sort_keys=True)


class Reader(NamedTuple):
    """A language model that reads captions: everything that decides its `Work`.

    Of that ``flops.test`` and ``launches.test`` are those of a caption, ``blocks`` its layers.
    """

    language: str
    language_settings: str

    @property
    def key(self) -> str:
        """All of it in one string."""
        return json.dumps(self)


def reader(plan: Plan, language: str) -> Reader:
    """Return what is counted of a language model.

    Raises:
        Unknown: If it is made here, by a job that is still to be run.
    """
    check_made(plan, language)
    return Reader(*_checkpoint(plan, language))


def check_made(plan: Plan, language: str | None) -> None:
    """Check that no job of the plan makes a language model first.

    Raises:
        Unknown: If one does.
    """
    if language in plan.made_here and not _checkpoint(plan, language)[1]:
        raise Unknown(f"{language} is counted once pretrain has made it")


def _checkpoint(plan: Plan, language: str) -> tuple[str, str]:
    """Return where a language model is, or its name if it is not there, and its settings."""
    checkpoint = Path(plan.checkpoint(SimpleNamespace(language=language)))
    note = checkpoint / "config.json"
    settings = note.read_text(encoding="utf-8") if note.is_file() else ""
    return f"{checkpoint}" if checkpoint.exists() else language, settings


def subject(plan: Plan, run: Run) -> Subject:
    """Return what is counted of a run."""
    settings = grid.run_settings(plan.config, run)
    entry = {key: value for key, value in settings.data.items() if key != "name"}
    trunk = settings.vision.model_dump(include=set(TrunkSettings.model_fields))
    plain = Subject(settings.task, entry, {**trunk, "start": None})
    if run.language is None:
        return plain
    language, language_settings = _checkpoint(plan, run.language)
    return plain._replace(
        variant=run.variant,
        control=run.control,
        language=language,
        language_settings=language_settings,
        layers=len(layers_of(run.layer)),
        insert_at=settings.insert_at,
        # the model's own norm costs the same, and has weights that are not there yet
        final_norm="unit" if settings.final_norm == "loaded" else settings.final_norm,
    )


def alone(timm: str, overrides: dict[str, object], image_size: int = 224) -> Subject:
    """Return what is counted of a model of timm that classifies images."""
    entry = {"task": DEFAULT_TASK, "image_size": image_size, "classes": 1000}
    vision = {"name": timm, "timm": timm, "overrides": overrides, "family": None, "start": None}
    return Subject(DEFAULT_TASK, entry, vision)


def count(what: Subject | Reader) -> Work:
    """Return what a training computes and stores, or a reader; counted once, then known.

    Raises:
        ValueError: If the model cannot be built, e.g. since its language model is not known yet.
    """
    counted = _count if isinstance(what, Subject) else _read_captions
    return _read(answer(KIND, _key(what), lambda: json.dumps(counted(what))))


def known(what: Subject | Reader) -> Work | None:
    """Return the same if it was counted before; takes no torch."""
    kept = remembered(KIND, _key(what))
    return None if kept is None else _read(kept)


def _key(what: Subject | Reader) -> Sequence[str]:
    task = what.task if isinstance(what, Subject) else None
    return (*code_of(task, *CODE), what.key)


def _read(text: str) -> Work:
    flops, *sizes, launches = json.loads(text)
    return Work(flops and Flops(*flops), *sizes, launches and Launches(*launches))


def _count(what: Subject) -> Work:
    """Build the model without weights, and count."""
    import torch

    from rectify.counting import Counter
    from rectify.rectified import export, trainable_state, trunk_of
    from rectify.tasks import find
    from rectify.tasks.contract import Exemplary
    from rectify.trunks.kinds import as_trunk

    with torch.device("meta"), Counter():  # which knows what first weights are drawn by
        model, layers = built(what)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    state = trainable_state(model).values()
    tested = export(model).values() if what.variant == "auxiliary" else state
    values = sum(tensor.numel() for layer in layers for tensor in layer.parameters())
    moments = 2 * _bytes(trained)  # AdamW's two
    trunk = as_trunk(trunk_of(model))
    work = Work(
        None, _bytes(tested), _bytes(state), moments, 2 * values, len(trunk.blocks), trunk.dim
    )
    if not isinstance(find(what.task), Exemplary):
        return work
    flops, launches = _counted(what, model)
    if what.language is not None:
        plain = count(what.trunk)
        flops = flops._replace(training_trunk=plain.flops.training, test_trunk=plain.flops.test)
        launches = launches._replace(training_trunk=plain.launches.training)
    return work._replace(flops=flops, launches=launches)


def _read_captions(what: Reader) -> Work:
    """Count what one layer computes of a caption, for all of them."""
    import torch

    from rectify.cost import language_config
    from rectify.counting import Counter
    from rectify.language.block import empty_block

    config = language_config(what.language)
    layers, layer = config.num_hidden_layers, empty_block(config, "")
    with Counter() as counter, torch.no_grad():
        layer(torch.empty(1, CAPTION, layer.hidden, device="meta"))
    flops, launches = layers * counter.flops, layers * counter.launches
    values = layers * sum(tensor.numel() for tensor in layer.parameters())
    return Work(
        Flops(0, 0, flops, 0),
        *(0, 0, 0, 2 * values, layers, layer.hidden),
        Launches(0, 0, launches),
    )


def built(what: Subject) -> tuple["nn.Module", list["Block"]]:
    """Return a model, and the language model's layers in it, which have no weights."""
    from rectify.cost import language_config
    from rectify.language.block import Stack, empty_block
    from rectify.rectified import auxiliary, insert
    from rectify.runtime import generator
    from rectify.tasks import find

    task = find(what.task)
    trunk = task.trunk(task.settings.for_run(what.entry), TrunkSettings(**what.vision), None)
    if what.language is None:
        return trunk, []
    config = language_config(what.language)
    layers = [empty_block(config, "") for _ in range(what.layers)]
    layer = Stack(layers) if len(layers) > 1 else layers[0]
    how = {"final_norm": what.final_norm, "control": what.control}
    how |= {"generator": generator(0, "work")}
    if what.variant not in INSERTED:
        return auxiliary(trunk, layer, **how), layers
    skip = what.variant == "residual"
    return insert(trunk, layer, what.insert_at, residual=skip, **how), layers


def _counted(what: Subject, model: "nn.Module") -> tuple[Flops, Launches]:
    """Return what a model without weights computes, all of it as if it were a trunk."""
    import torch

    from rectify.cost import training_pass
    from rectify.counting import Counter
    from rectify.tasks import find

    task = find(what.task)
    place = task.settings.for_run(what.entry), TrunkSettings(**what.vision), 1, "meta"
    batch, tested = task.example(*place), task.example(*place, tested=True)
    training = training_pass(model, batch, task.losses)
    model.eval()
    with torch.no_grad():
        for test in (Counter(), Counter()):  # what all items of a test share is encoded once
            with test:
                model(tested["inputs"])
    return (
        Flops(training.flops, training.flops, test.flops, test.flops),
        Launches(training.launches, training.launches, test.launches),
    )


def _bytes(tensors: Iterable) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
