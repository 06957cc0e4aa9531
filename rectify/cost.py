"""What a trunk costs alone, with a frozen layer, and with a second path: parameters and FLOPs.

Counting needs no weights: models are on torch's ``meta`` device, shapes without numbers. FLOPs
are those of one image, clip, cloud or scene, counted by three conventions, a multiply-add being 2:

    paper                      linears and convolutions, 5 per element of a LayerNorm, 2 of a
                               BatchNorm, and the attention products of the language model's
                               layer, not of the trunk
    matmuls without attention  linears and convolutions
    matmuls with attention     all matrix products, as torch's FlopCounterMode counts

The first gives the 8.5 and 90.11 GFLOPs that the paper prints. It is twice what fvcore calls
flops: multiply-adds, where fused attention is unknown and counts 0, LayerNorm counts 5 per
element, BatchNorm at test 2, and RMSNorm, activations and softmax count 0. Choosing the points of
a cloud and their neighbours has no products, and counts 0 everywhere. Scenes of traffic are all of
the size that is given; real ones are padded to the largest of their batch.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig

from rectify.controls import VARIANTS
from rectify.counting import Counter
from rectify.data.forecasts import FUTURE, OBSERVED
from rectify.language.block import Block, empty_block
from rectify.language.families import parse_config
from rectify.language.weights import read_config
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.tasks import classification
from rectify.tasks.contract import NO_TIMM, Batch
from rectify.tasks.motion_forecasting import measures
from rectify.tasks.motion_forecasting.example import example
from rectify.tasks.motion_forecasting.task import FAMILIES
from rectify.trunks.point_bert import PointBert
from rectify.trunks.trunk import Outputs
from rectify.trunks.videomae import create_videomae
from rectify.trunks.vit import create_vit
from rectify.typed import check_known

SIZES = Path(__file__).parent / "language" / "sizes.yaml"
Row = Mapping[str, str | int | float | None]
"""A variant's name, and its counted and measured columns."""
Losses = Callable[[Outputs, Batch], Float[Tensor, " batch"]]
LINEAR = {"mm", "addmm", "convolution"}  # torch's names of the products outside attention
NORMS = {nn.LayerNorm: 5 * 2, nn.BatchNorm1d: 2 * 2}
"""FLOPs per element: fvcore's "multiply-adds", doubled like the others."""
IMAGE_SIZES = ("image_size", "channels", "frames", "classes")
SCENE_SIZES = ("agents", "lanes", "observed", "future")


@dataclass(frozen=True)
class Design:
    """A trunk and the layer of a language model in it.

    Attributes:
        vision: A timm model name, e.g. ``vit_small_patch16_224``; ``none`` for clouds and scenes.
        language: A name in ``sizes.yaml``, or a checkpoint: a folder or a .gguf file.
        position: Of the inserted layer: ``early``, ``middle``, ``end`` or a number of blocks.
        image_size: Height and width in pixels.
        channels: Channels of an image, or of a frame.
        frames: More than 1 makes the ViT VideoMAE's, and an image a clip.
        points: More than 0 makes the trunk Point-BERT, and an image a cloud of so many points.
        family: ``vectornet`` or ``mmtransformer`` makes it that, and an image a scene of traffic.
        agents: Of a scene.
        lanes: Of a scene.
        observed: Steps of a scene that the model sees.
        future: Steps that it forecasts.
        classes: Outputs of the head.
        final_norm: Norm after the layer: ``unit`` or ``none``.
        overrides: Further arguments of timm, e.g. ``embed_dim``, or sizes of another trunk.

    Raises:
        ValueError: If a size is below 1, a family is unknown, or a model of timm is given with
            points or a family, or none without.
    """

    vision: str
    language: str
    position: str | int = "end"
    image_size: int = 224
    channels: int = 3
    frames: int = 1
    points: int = 0
    family: str | None = None
    agents: int = 0
    lanes: int = 0
    observed: int = OBSERVED
    future: int = FUTURE
    classes: int = 1000
    final_norm: str = "unit"
    overrides: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family is not None:
            check_known("cost: family", self.family, FAMILIES, "a known form of the trunk")
        for name in IMAGE_SIZES if self.family is None else SCENE_SIZES:
            check_size(name, getattr(self, name))
        others = (self.points > 0) + (self.family is not None)
        if others != (self.vision == NO_TIMM):
            raise ValueError(
                f"cost: vision must be {NO_TIMM} for clouds of points, or with a family, and for "
                f"nothing else, got {self.vision} for {self.points} points and family "
                f"{self.family or 'none'}. Correct --vision, --points or --family."
            )

    def batch(self, batch_size: int, device: torch.device | str) -> Batch:
        """Return random images, clips, clouds or scenes, and what their loss needs."""
        if self.family is not None:
            sizes = {name: getattr(self, name) for name in SCENE_SIZES}
            return example(batch_size, **sizes, device=device)
        image = (self.channels, self.image_size, self.image_size)
        item = image if self.frames == 1 else (self.frames, *image)
        item = (self.points, 3) if self.points else item
        return classification.example(item, self.classes, batch_size, device)

    def losses(self, outputs: Outputs, batch: Batch) -> Float[Tensor, " batch"]:
        """Return one loss for each item of a batch."""
        if self.family is not None:
            return measures.losses(outputs, batch["future"], batch["future_seen"], focal=False)
        return classification.losses(outputs, batch["labels"])


def design_from(options: Mapping[str, object], checkpoint: Path | None = None) -> Design:
    """Return the design that options describe, by the names of its attributes.

    Args:
        options: May hold others too; a position may be a number as text, and ``timm`` goes
            before ``vision`` where that is a name of the configuration.
        checkpoint: Of the language model, read in place of a known name if it exists.

    Raises:
        ValueError: If ``vision`` or ``language`` is missing, or a value is not of its type.
    """
    _check_types(options)
    values = {f.name: options[f.name] for f in fields(Design) if options.get(f.name) is not None}
    if "timm" in options:
        values["vision"] = options["timm"]
    if checkpoint is not None and checkpoint.exists():
        values["language"] = f"{checkpoint}"
    for name in ("vision", "language"):
        if name not in values:
            raise ValueError(f"cost: --{name} must be given, got none. Add it.")
    position = f"{values.get('position', 'end')}"
    values["position"] = int(position) if position.isdecimal() else position
    return Design(**values)


def _check_types(options: Mapping[str, object]) -> None:
    """Check what a JSON object may hold in the place of options of the command line."""
    kinds: dict[str, tuple[type, ...]] = {
        **dict.fromkeys(
            ("vision", "timm", "language", "final_norm", "precision", "family"), (str,)
        ),
        **dict.fromkeys((*IMAGE_SIZES, *SCENE_SIZES, "points", "batch_size"), (int,)),
        "position": (str, int),
        "overrides": (Mapping,),
    }
    for name, kind in kinds.items():
        value = options.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            words = {str: "text", int: "a whole number", Mapping: "a mapping"}
            rule = " or ".join(words[one] for one in kind)
            raise ValueError(f"cost: {name} must be {rule}, got {value!r}. Correct --settings.")


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
    """Return the parameters of a variant, and its FLOPs for one image, clip, cloud or scene.

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
        trunk = _trunk(design)
        if variant == "vanilla":
            return Model(trunk, trunk)
        block, norm = empty_block(language_config(design.language), ""), design.final_norm
        if variant == "auxiliary":
            return Model(auxiliary(trunk, block, generator=draws, final_norm=norm), trunk)
        how = {"final_norm": norm, "residual": variant == "residual"}
        inserted = insert(trunk, block, design.position, generator=draws, **how)
        return Model(inserted, inserted)


def _trunk(design: Design) -> nn.Module:
    if design.family is not None:
        return FAMILIES[design.family].of(design.overrides, design.observed, design.future)
    if design.points:
        return PointBert.of(design.overrides, classes=design.classes, points=design.points)
    create = create_vit if design.frames == 1 else create_videomae
    return create(
        design.vision,
        num_classes=design.classes,
        image_size=design.image_size,
        channels=design.channels,
        frames=design.frames,
        overrides=design.overrides,
    )


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
        model: On torch's ``meta`` device; one that has encoded before what its items share, and is
            in ``eval`` mode since, need not do it again.
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
    if model.training:
        model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(item["inputs"])
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


def check_size(name: str, size: int) -> None:
    """Raise ``ValueError`` if a size is below 1."""
    if size < 1:
        raise ValueError(
            f"cost: {name} must be at least 1, got {size}. Correct --{name.replace('_', '-')}."
        )


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
