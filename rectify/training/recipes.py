"""Training recipes: named sets of values, each with its rule.

deit      Touvron et al. 2021, DeiT-S/T from scratch on ImageNet
pang      Pang et al. 2024: DeiT's with 20 warm-up epochs
paper     the AAAI 2025 paper: DeiT's with weight decay 1e-5; one Mixup draw per image and no
          repeated augmentation, since a draw or an image that a batch shares would correlate
          the gradients whose noise is measured
videomae  Tong et al. 2022, fine-tuning of ViT-S on Something-Something-v2, with the batch
          and epochs of Pang et al.; ViT-B differs in four values, which config.yaml holds
point-bert         Yu et al. 2022, fine-tuning of Point-BERT on clouds
pang-points        Pang et al. 2024, App. C.2: the same, and the rectifier learns at a tenth of the
                   rate
pang-points-code   their released code: biases and norms learn at a tenth, the rectifier at a half
pang-vectornet     Pang et al. 2024, App. C.4: VectorNet on Argoverse
pang-mmtransformer Pang et al. 2024, App. C.4: mmTransformer on Argoverse; "drop by 1/4" as x 0.25
streaming-vectornet  the same author's released training of VectorNet (Pang et al. 2023); its
                   warm-up of 1,000 steps in front of 24 epochs is an epoch here, and first
                   weights are torch's own, not Xavier's with biases in 0 .. 1
meter     Dou et al. 2022, fine-tuning of METER on VQAv2; the rectifier learns at ten times the rate
          of the encoders, as Pang et al. 2024 have it, App. C.5. Theirs is the rate, twice as high
          in Shi et al. 2023, whom Pang et al. follow as well
meter-retrieval    the same on Flickr30k and COCO: METER's list of heads has not the one that ranks,
          so it learns at the encoders' rate
sqa3d     Ma et al. 2023, SQA3D; its weight decay was Adam's, it clipped single values of gradients,
          and the momentum of its norms fell, all of which is not done here
pang-rooms  Pang et al. 2024, App. C: the same on batches of 32 for 30 epochs, by AdamW; the rate
          is not printed, and its authors' is taken

DeiT and Pang et al. also keep a moving average of the weights, but report the weights
themselves; there is none here. DeiT's colour jitter has no effect next to RandAugment.
"""

import re
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Strict,
    field_validator,
    model_validator,
)

from rectify.typed import Closed, Listed, check_known, parse

POLICY = re.compile(  # of timm, without sections that it would silently leave out
    r"rand(-([mn]\d+|(p|mstd)\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)))*"
    r"|augmix(-([mwd]\d+|(a|mstd)\d+(\.\d+)?|b[01]))*|((original|v0)r?|3a)(-mstd\d+(\.\d+)?)?"
)
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Factor = Annotated[tuple[str, PositiveFloat], Strict(False)]


class Recipe(Closed, strict=True, allow_inf_nan=False):
    """Every value that decides how a model is trained."""

    epochs: PositiveInt = 300
    batch_size: PositiveInt = 1024
    lr: PositiveFloat = 5e-4
    """Learning rate at ``lr_batch_size``; scaled linearly to ``batch_size``."""
    lr_batch_size: PositiveInt | None = 512
    """None: ``lr`` is used as it is."""
    layer_decay: PositiveShare | None = None
    """Each block learns at this share of the rate of the one after it; None: all at one rate."""
    lr_factors: Annotated[tuple[Factor, ...], Strict(False)] = ()
    """Patterns (regular expressions, searched in a tensor's name) and what multiplies their rate.
    Each trained tensor has to fit exactly one of them; no pattern at all: all at one rate."""
    weight_decay: NonNegativeFloat = 0.05
    undecayed: Listed[str] = ()
    """Patterns of tensors that are not decayed, besides biases, norms and what the model names."""
    betas: Annotated[tuple[ShareBelowOne, ShareBelowOne], Strict(False)] = (0.9, 0.999)
    """Of AdamW: decay of the means of gradients and of their squares."""
    schedule: Literal["cosine", "linear", "step"] = "cosine"
    """``linear``: in even steps to ``min_lr``; ``step``: the rate is multiplied by ``gamma`` at
    each of the ``milestones``."""
    milestones: Annotated[tuple[PositiveInt, ...], Strict(False)] = ()
    """First epochs at a lower rate, counted from 0."""
    gamma: PositiveShare | None = None
    warmup_epochs: NonNegativeInt = 5
    warmup_prefix: bool = False
    """The schedule begins after the warm-up; otherwise it counts from the start, as in DeiT."""
    warmup_lr: NonNegativeFloat = 1e-6
    min_lr: NonNegativeFloat = 1e-5
    """Where the cosine or the straight line ends."""
    scale_min_lr: bool = False
    """Scale ``min_lr`` to the batch size as well."""
    lr_per_step: bool = False
    """Change the learning rate after each step; otherwise after each epoch, as DeiT does."""
    clip_gradient: PositiveFloat | None = None
    """Largest norm of the gradient of all trained tensors; None: it is not clipped."""
    drop_path: ShareBelowOne = 0.1
    head_scale: NonNegativeFloat = 1.0
    """What the head's first weights are multiplied by."""
    adapter_init: Literal["trunc_normal", "linear", "xavier"] = "trunc_normal"
    """First weights of the rectifier's two linears: normal with std 0.02 (within 2, so that nothing
    is cut off), torch's own for a linear, or Xavier's uniform ones."""
    label_smoothing: ShareBelowOne = 0.1
    mixup: NonNegativeFloat = 0.8
    cutmix: NonNegativeFloat = 1.0
    mixup_prob: Share = 1.0
    mixup_switch_prob: Share = 0.5
    mixup_mode: Literal["batch", "elem"] = "batch"
    """``batch``: one draw for all images of a batch; ``elem``: one for each image."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    augment_on: Literal["worker", "device"] = "worker"
    """Where operations of RandAugment are computed: one image at a time by the processes that read
    them, or on the device for all of a batch; both draw the same."""
    crop: Literal["resized", "centre", "padded", "posed", "none"] = "resized"
    """``resized``: random area and aspect; ``centre``: what a resized image has in its middle. For
    images that are stored as the model takes them: ``padded``, shifted by up to ``pad``, as DeiT
    does at 32 pixels; ``posed``, turned, scaled and moved; or ``none``."""
    crop_scale: PositiveShare = 0.08
    pad: NonNegativeInt = 4
    repeats: PositiveInt = 3
    """Repeated augmentation: times that an epoch takes each of its items. The epoch keeps its
    length, so with 3 it sees another third of the set each time."""
    flip: Share = 0.5
    random_erasing: Share = 0.25
    cloud_scale: Annotated[float, Field(ge=1)] = 1.5
    """Of point clouds: each axis has its own factor, uniform between 1 over this and this."""
    cloud_shift: NonNegativeFloat = 0.2
    """Of point clouds: most by which each axis is shifted, either way."""
    augment_repeats: PositiveInt = 1
    """Times that each item is in its batch, augmented anew; not counted in ``batch_size``."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """``bfloat16``: autocast in forward passes."""
    accumulate: PositiveInt = 1
    """Slices of a process's batch that go through the model one after the other."""
    compile: bool = False
    """torch.compile; the first measured step is eager."""

    @field_validator("auto_augment")
    @classmethod
    def _is_a_policy_of_timm(cls, value: str | None) -> str | None:
        if value is not None and not POLICY.fullmatch(value):
            raise ValueError(
                "auto_augment must be rand, augmix, original, originalr, v0, v0r or 3a with its "
                f"sections as timm has them (rand-m9-mstd0.5-inc1), got {value}. Correct it."
            )
        return value

    @field_validator("lr_factors")
    @classmethod
    def _has_regular_expressions(cls, value: tuple[Factor, ...]) -> tuple[Factor, ...]:
        for pattern, _ in value:
            _check_expression("lr_factors", pattern)
        return value

    @field_validator("undecayed")
    @classmethod
    def _has_regular_expressions_too(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            _check_expression("undecayed", pattern)
        return value

    @model_validator(mode="after")
    def _has_rules_that_agree(self) -> "Recipe":
        epochs = ", ".join(map(str, self.milestones)) or "none"
        steps = self.schedule == "step"
        ordered = list(self.milestones) == sorted(set(self.milestones))
        inside = all(epoch < self.epochs for epoch in self.milestones)
        even = self.batch_size * self.augment_repeats % 2 == 0
        for holds, name, rule, got in (
            (self.warmup_epochs < self.epochs, "warmup_epochs", f"below epochs ({self.epochs})",
             self.warmup_epochs),
            (even or not self.mixes, "batch_size", "even with Mixup or CutMix", self.batch_size),
            (self.crop in ("resized", "centre", "padded") or self.auto_augment is None, "crop",
             "resized, centre or padded with auto_augment", self.crop),
            (self.augment_on == "worker" or self.auto_augment is not None, "augment_on",
             "worker without auto_augment", self.augment_on),
            (self.layer_decay is None or not self.lr_factors, "layer_decay",
             "null with lr_factors", self.layer_decay),
            (self.layer_decay is None or not self.undecayed, "layer_decay",
             "null with undecayed", self.layer_decay),
            (steps == bool(self.milestones), "milestones",
             "given with schedule step, and only then", epochs),
            (steps == (self.gamma is not None), "gamma",
             "given with schedule step, and only then", self.gamma),
            (ordered and inside, "milestones", f"in order, and below epochs ({self.epochs})",
             epochs),
        ):  # fmt: skip
            if not holds:
                raise ValueError(f"{name} must be {rule}, got {got}. Change training.{name}.")
        return self

    @property
    def unmixed(self) -> "Recipe":
        """The recipe without Mixup, CutMix and smoothed labels, and else the same."""
        return self.model_copy(update={"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.0})

    @property
    def mixes(self) -> bool:
        """Whether Mixup or CutMix mixes the images of a batch in pairs."""
        return bool(self.mixup or self.cutmix)

    @property
    def scaled_lr(self) -> float:
        """Highest learning rate of the run."""
        return self.lr * self._scale

    @property
    def scaled_min_lr(self) -> float:
        """Learning rate that the schedule ends at."""
        return self.min_lr * self._scale if self.scale_min_lr else self.min_lr

    @property
    def _scale(self) -> float:
        return 1.0 if self.lr_batch_size is None else self.batch_size / self.lr_batch_size


def _check_expression(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{name} must have regular expressions, got {pattern!r} ({error}). Correct it."
        ) from None


UNCHANGED = Recipe(
    batch_size=32,
    lr_batch_size=None,
    adapter_init="linear",
    label_smoothing=0.0,
    mixup=0.0,
    cutmix=0.0,
    auto_augment=None,
    crop="none",
    repeats=1,
    flip=0.0,
    random_erasing=0.0,
)
"""Of items that are no images, so nothing that changes images."""
POINT_BERT = UNCHANGED.model_copy(
    update={"warmup_epochs": 10, "min_lr": 1e-6, "clip_gradient": 10.0}
)
VECTORNET = UNCHANGED.model_copy(
    update={
        "epochs": 60,
        "weight_decay": 0.01,
        "warmup_epochs": 0,
        "min_lr": 0.0,
        "drop_path": 0.0,
    }
)
ROOMS = UNCHANGED.model_copy(
    update={
        "epochs": 50,
        "batch_size": 16,
        "schedule": "linear",
        "min_lr": 5e-4,
        "weight_decay": 1e-5,
        "warmup_epochs": 0,
        "drop_path": 0.0,
        "cloud_scale": 1.0,
        "cloud_shift": 0.5,
    }
)
RECTIFIER = r"^bridge\."
SMALL = r"(\.bias|norm\d?\.weight|token)$"  # biases, norms, the class token

HEAD = r"(^|\.)head\.(hidden|norm|output)\."
FUSION = r"^(trunk\.)?(layers|image_transform|text_transform)\.|(^|\.)head\.\w+_pooler\."
ENCODERS = r"^(trunk\.)?(image|text|types)\."
RANK = r"(^|\.)head\.rank\."
METER = UNCHANGED.model_copy(
    update={
        "epochs": 10,
        "batch_size": 512,
        "lr": 5e-6,
        "lr_factors": ((RECTIFIER, 10.0), (HEAD, 50.0), (FUSION, 5.0), (ENCODERS, 1.0)),
        "weight_decay": 0.01,
        "betas": (0.9, 0.98),
        "schedule": "linear",
        "warmup_epochs": 1,
        "warmup_prefix": True,
        "warmup_lr": 0.0,
        "min_lr": 0.0,
        "lr_per_step": True,
        "drop_path": 0.0,
        "adapter_init": "trunc_normal",
        "auto_augment": "rand-m3-n2-p1",
        "crop": "centre",
    }
)

RECIPES: dict[str, Recipe] = {
    "deit": Recipe(),
    "pang": Recipe(warmup_epochs=20),
    "paper": Recipe(weight_decay=1e-5, mixup_mode="elem", repeats=1),
    "videomae": Recipe(
        epochs=40,
        batch_size=24,
        lr=1e-3,
        lr_batch_size=256,
        layer_decay=0.7,
        warmup_prefix=True,
        warmup_lr=0.0,
        min_lr=1e-6,
        scale_min_lr=True,
        lr_per_step=True,
        head_scale=1e-3,
        auto_augment="rand-m7-n4-mstd0.5-inc1",
        flip=0.0,
        repeats=1,
        augment_repeats=2,
    ),
    "point-bert": POINT_BERT,
    "pang-points": POINT_BERT.model_copy(
        update={
            "lr_factors": ((RECTIFIER, 0.1), (rf"^(?!{RECTIFIER[1:]})", 1.0)),
            "undecayed": (RECTIFIER,),
        }
    ),
    "pang-points-code": POINT_BERT.model_copy(
        update={
            "lr_factors": (
                (RECTIFIER, 0.5),
                (rf"^(?!{RECTIFIER[1:]}).*{SMALL}", 0.1),
                (rf"^(?!{RECTIFIER[1:]})(?!.*{SMALL})", 1.0),
            ),
            "undecayed": (RECTIFIER,),
        }
    ),
    "pang-vectornet": VECTORNET,
    "pang-mmtransformer": VECTORNET.model_copy(
        update={"epochs": 32, "schedule": "step", "milestones": (20, 24, 28), "gamma": 0.25}
    ),
    "streaming-vectornet": VECTORNET.model_copy(
        update={
            "epochs": 25,
            "weight_decay": 1e-4,
            "warmup_epochs": 1,
            "warmup_prefix": True,
            "warmup_lr": 5e-7,
            "lr_per_step": True,
            "schedule": "step",
            "milestones": (16, 20),
            "gamma": 0.25,
            "clip_gradient": 0.1,
        }
    ),
    "meter": METER,
    "meter-retrieval": METER.model_copy(
        update={"lr_factors": ((RECTIFIER, 10.0), (FUSION, 5.0), (f"{ENCODERS}|{RANK}", 1.0))}
    ),
    "sqa3d": ROOMS,
    "pang-rooms": ROOMS.model_copy(
        update={
            "epochs": 30,
            "batch_size": 32,
            "schedule": "step",
            "min_lr": 0.0,
            "milestones": (10, 15, 20),
            "gamma": 0.1,
            "weight_decay": 0.01,
        }
    ),
}


def recipe(recipe: object = "paper", **changes: object) -> Recipe:
    """Return a named recipe with some values changed, as ``training`` of a config has them.

    Raises:
        ValueError: If the recipe or a value's name is unknown, or a value can't be right.
    """
    check_known("config: training.recipe", recipe, RECIPES, "a recipe")
    values = RECIPES[recipe].model_dump()
    return parse(Recipe, {**values, **changes}, "training")


def measured_samples(samples: int, recipe: Recipe, processes: int) -> int:
    """Return how many samples of each pass are measured at every step.

    Args:
        samples: Of each step.
        recipe: Of the training.
        processes: That share each batch.

    Raises:
        ValueError: If they are no equal parts of the passes.
    """
    batch, passes = recipe.batch_size * recipe.augment_repeats, processes * recipe.accumulate
    if samples % passes or not 2 * passes <= samples <= batch:
        raise ValueError(
            f"config: gsnr.every_step.samples must be a multiple of {passes}, the passes of a "
            f"step, in {2 * passes}..{batch}, got {samples}. Change it."
        )
    return samples // passes
