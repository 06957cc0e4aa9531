"""What a trunk costs alone, with a frozen layer, and with a second path: parameters and FLOPs.

Counting needs no weights: models are on torch's ``meta`` device, shapes without numbers. FLOPs
are those of one item as its task's ``example`` makes it, an image, a clip, a question, counted by
three conventions, a multiply-add being 2:

    paper                      linears and convolutions, 5 per element of a LayerNorm, 2 of a
                               BatchNorm, and the attention products of the language model's
                               layer, not of the trunk
    matmuls without attention  linears and convolutions
    matmuls with attention     all matrix products, as torch's FlopCounterMode counts

The first gives the 8.5 and 90.11 GFLOPs that the paper prints. It is twice what fvcore calls
flops: multiply-adds, where fused attention is unknown and counts 0, LayerNorm counts 5 per
element, BatchNorm at test 2, and RMSNorm, activations and softmax count 0. Choosing the points of
a cloud and their neighbours has no products, and counts 0 everywhere. Items are all of one size;
real scenes and texts are padded to the largest of their batch.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from rectify.controls import VARIANTS
from rectify.counting import Counter
from rectify.language.block import Block, empty_block
from rectify.language.families import parse_config
from rectify.language.weights import read_config
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.tasks import DEFAULT_TASK, find
from rectify.tasks.contract import Batch, Exemplary
from rectify.tasks.entry import TrunkSettings
from rectify.trunks.trunk import Outputs
from rectify.typed import Closed, check_known, parse

SIZES = Path(__file__).parent / "language" / "sizes.yaml"
Row = Mapping[str, str | int | float | None]
"""A variant's name, and its counted and measured columns."""
Losses = Callable[[Outputs, Batch], Float[Tensor, " batch"]]
LINEAR = {"mm", "addmm", "convolution"}  # torch's names of the products outside attention
NORMS = {nn.LayerNorm: 5 * 2, nn.BatchNorm1d: 2 * 2}
"""FLOPs per element: fvcore's "multiply-adds", doubled like the others."""
OF_IMAGES = ("image_size", "classes", "channels", "overrides")
PIXELS, CLASSES, CHANNELS = 224, 1000, 3
"""Of images where nothing else is said: ImageNet's."""


class Design(Closed):
    """A trunk that learns a set of some task, and the layer of a language model in it."""

    task: str
    entry: dict[str, object] = Field(description="Keys of the set that decide its model.")
    trunk: TrunkSettings
    language: str = Field(description="A name in sizes.yaml, or a folder or .gguf file.")
    position: str | int = Field("end", description="early, middle, end or a number of blocks.")
    final_norm: str = Field("unit", description="Norm after the layer: unit or none.")

    @property
    def losses(self) -> Losses:
        """From outputs and batch to one loss for each item."""
        return exemplary(self.task, "cost").losses

    def batch(self, batch_size: int, device: torch.device | str) -> Batch:
        """Return random items, and what their losses need."""
        task = exemplary(self.task, "cost")
        entry = task.settings.for_run(self.entry)
        return task.example(entry, self.trunk, batch_size, device)

    def build_trunk(self) -> nn.Module:
        """Return the trunk alone."""
        task = exemplary(self.task, "cost")
        return task.trunk(task.settings.for_run(self.entry), self.trunk, None)


def of_images(
    vision: str,
    language: str,
    *,
    image_size: int = PIXELS,
    classes: int = CLASSES,
    channels: int = CHANNELS,
    overrides: Mapping[str, object] | None = None,
    **more: str | int,
) -> Design:
    """Return a model of timm that learns images; ``more`` are position and norm of the layer.

    Raises:
        ValueError: If a value is not as it must be.
    """
    trunk = {"name": vision, "timm": vision, "overrides": dict(overrides or {})}
    entry = {"image_size": image_size, "classes": classes, "channels": channels}
    values = {"task": DEFAULT_TASK, "entry": entry, "trunk": trunk, "language": language}
    return parse(Design, values | more, "cost")


def known(options: Mapping[str, object]) -> Mapping[str, object]:
    """Return options by name, all of which a design or a timed step takes.

    Raises:
        ValueError: If nothing takes one of them.
    """
    names = (*Design.model_fields, *OF_IMAGES, "vision", "batch_size", "precision")
    for name in options:
        check_known("cost: --settings", name, names, "a setting of a design or its timed step")
    return options


def design_from(options: Mapping[str, object], checkpoint: Path | None = None) -> Design:
    """Return the design that options describe: one of any task, or else `of_images`.

    Args:
        options: By the attributes of a `Design`, or the arguments of `of_images`, and maybe others;
            a position may be a number as text.
        checkpoint: Of the language model, read in place of a known name if it exists.

    Raises:
        ValueError: If ``vision`` or ``language`` is missing, or a value is not as it must be.
    """
    for name in ("vision", "language"):
        if options.get(name) is None:
            raise ValueError(f"cost: --{name} must be given, got none. Add it.")
    language = f"{checkpoint}" if checkpoint and checkpoint.exists() else options["language"]
    position = f"{options.get('position', 'end')}"
    more = {"position": int(position) if position.isdecimal() else position}
    more |= {"final_norm": options.get("final_norm", "unit")}
    sizes = {name: options[name] for name in OF_IMAGES if options.get(name) is not None}
    if options.get("task") is None:
        return of_images(options["vision"], language, **sizes, **more)
    if sizes:
        raise ValueError(
            f"cost: {next(iter(sizes))} must be that of the set, got {next(iter(sizes.values()))} "
            "next to it. Take it away, or --data."
        )
    kept = {name: options[name] for name in ("task", "entry", "trunk")}
    return parse(Design, {**kept, "language": language, **more}, "cost")


def exemplary(name: str, where: str) -> Exemplary:
    """Return a task whose items have a size before there are any.

    Args:
        name: Of the task.
        where: Who asks, for the message.

    Raises:
        ValueError: If there is no such task, or it has no ``example``.
    """
    task = find(name)
    if not isinstance(task, Exemplary):
        raise ValueError(
            f"{where}: the task must have `example` (rectify/tasks/contract.py), got {name}. "
            "Add it."
        )
    return task


class Model(NamedTuple):
    """A variant while it is trained and as it is used at test time: without its second path."""

    trained: nn.Module
    tested: nn.Module


class Flops(NamedTuple):
    """FLOPs of one forward pass by each convention."""

    paper: int
    matmuls_without_attention: int
    matmuls_with_attention: int


class Counts(NamedTuple):
    """The counted columns of a ``COST`` table."""

    parameters: int
    trained_parameters: int
    test_parameters: int
    flops: int
    flops_matmuls_without_attention: int
    flops_matmuls_with_attention: int
    training_flops: int


def counts(design: Design, variant: str) -> Counts:
    """Return the parameters of a variant, and its FLOPs for one item.

    Args:
        design: The trunk and the layer in it.
        variant: A key of ``rectify.controls.VARIANTS``.

    Raises:
        ValueError: If a name, position or size is not as it must be.
    """
    model, item = build(design, variant), design.batch(1, "meta")
    return Counts(
        parameters(model.trained),
        sum(p.numel() for p in model.trained.parameters() if p.requires_grad),
        parameters(model.tested),
        *flops(model.tested, item),
        training_pass(model.trained, item, design.losses).flops,
    )


def build(design: Design, variant: str) -> Model:
    """Return a variant without weights.

    Raises:
        ValueError: If a name, position or size is not as it must be.
    """
    check_known("cost: variant", variant, VARIANTS, "a known variant")
    draws = generator(0, "cost")
    with torch.device("meta"):
        trunk = design.build_trunk()
        if variant == "vanilla":
            return Model(trunk, trunk)
        block, norm = empty_block(language_config(design.language), ""), design.final_norm
        if variant == "auxiliary":
            return Model(auxiliary(trunk, block, generator=draws, final_norm=norm), trunk)
        how = {"final_norm": norm, "residual": variant == "residual"}
        inserted = insert(trunk, block, design.position, generator=draws, **how)
        return Model(inserted, inserted)


@functools.cache
def known_languages() -> dict[str, dict[str, object]]:
    """Return the settings of published language models by name."""
    return yaml.safe_load(SIZES.read_text(encoding="utf-8"))


def language_config(language: str) -> PretrainedConfig:
    """Return the configuration of a known language model, or of a checkpoint.

    Raises:
        ValueError: If it is neither.
    """
    known = known_languages()
    if language not in known and Path(language).exists():
        return read_config(Path(language))
    kinds = "a known model, the folder of a checkpoint or a .gguf file"
    check_known("cost: language", language, known, kinds)
    return parse_config(known[language], SIZES)


def parameters(model: nn.Module) -> int:
    """Return how many parameters a model has, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, item: Batch) -> Flops:
    """Return the FLOPs of a forward pass at test time.

    Args:
        model: On torch's ``meta`` device.
        item: A batch of one, there too.
    """
    norms: list[int] = []

    def counted(each: int) -> Callable[..., None]:
        return lambda module, inputs, output: norms.append(each * output.numel())

    hooks = [
        module.register_forward_hook(counted(each))
        for module in model.modules()
        for kind, each in NORMS.items()
        if isinstance(module, kind)
    ]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(item["inputs"])
    for hook in hooks:
        hook.remove()
    every = _products(counter, "Global")
    layers = [name for name, module in model.named_modules() if isinstance(module, Block)]
    linear = sum(count for operator, count in every.items() if operator in LINEAR)
    attention = sum(
        count
        for name in layers
        for operator, count in _products(counter, f"{type(model).__name__}.{name}").items()
        if operator not in LINEAR
    )
    return Flops(linear + attention + sum(norms), linear, sum(every.values()))


def training_pass(model: nn.Module, item: Batch, losses: Losses) -> Counter:
    """Return what a forward and a backward pass takes.

    Args:
        model: On torch's ``meta`` device.
        item: A batch of one, there too.
        losses: From outputs and batch to a loss for each item.
    """
    with Counter() as counter:
        training_loss(model.train()(item["inputs"]), item, losses).backward()
    model.zero_grad(set_to_none=True)
    return counter


def training_loss(
    outputs: Outputs | tuple[Outputs, Outputs], batch: Batch, losses: Losses
) -> Float[Tensor, ""]:
    """Return the loss of a batch; of two paths half of each (Eq. 10)."""
    if isinstance(outputs, tuple):
        return sum(0.5 * losses(path, batch).mean() for path in outputs)
    return losses(outputs, batch).mean()


def _products(counter: FlopCounterMode, module: str) -> dict[str, int]:
    operators = counter.get_flop_counts().get(module, {})
    return {operator.__name__.partition(".")[0]: count for operator, count in operators.items()}


def as_json(facts: Mapping[str, object], rows: Sequence[Row]) -> str:
    """Return rows of variants as JSON, the first two, without and with the layer, side by side."""
    vanilla, inserted, *_ = rows
    pairs = {
        name: {"vision": vanilla[name], "rectified": inserted[name]}
        for name in ("parameters", "flops")
    }
    return json.dumps({**facts, **pairs, "variants": rows}, indent=2)


def as_text(rows: Sequence[Row]) -> str:
    """Return rows of variants as columns of a table."""
    return "\n".join(
        f"{name:32}" + "".join(f"{_shown(row[name]):>20}" for row in rows) for name in rows[0]
    )


def _shown(value: str | int | float | None) -> str:
    return f"{value:,}" if isinstance(value, int | float) else value or "-"
