"""Training recipes: named sets of values, built into timm's optimizers, schedules and Mixup.

deit    Touvron et al. 2021, DeiT-S/T from scratch on ImageNet
pang    Pang et al. 2024: DeiT's with 20 warm-up epochs
paper   the AAAI 2025 paper: DeiT's with weight decay 1e-5; one Mixup draw per image and no
        repeated augmentation, since a draw or an image that a batch shares would correlate
        the gradients whose noise is measured

DeiT and Pang et al. also keep a moving average of the weights, but report the weights
themselves; there is none here. DeiT's colour jitter is without effect beside RandAugment.
"""

import dataclasses
import difflib
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every value that decides how a model is trained."""

    epochs: int = 300
    batch_size: int = 1024
    lr: float = 5e-4
    """Learning rate at ``lr_batch_size``; scaled linearly to ``batch_size``."""
    lr_batch_size: int | None = 512
    """None: ``lr`` is used as it is."""
    weight_decay: float = 0.05
    warmup_epochs: int = 5
    warmup_lr: float = 1e-6
    min_lr: float = 1e-5
    lr_per_step: bool = False
    """Change the learning rate after each step; otherwise after each epoch, as DeiT does."""
    drop_path: float = 0.1
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    """``batch``: one draw for all images of a batch; ``elem``: one for each image."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    crop: str = "resized"
    """``resized``: random area and aspect. For images that are stored as the model takes them:
    ``padded``, shifted by up to ``pad``, as DeiT does at 32 pixels; or ``none``."""
    crop_scale: float = 0.08
    pad: int = 4
    repeats: int = 3
    """Repeated augmentation: times that an epoch takes each of its items. The epoch keeps its
    length, so with 3 it sees another third of the set each time."""
    flip: float = 0.5
    random_erasing: float = 0.25
    precision: str = "float32"
    """``float32``, or ``bfloat16``: autocast in forward passes."""
    accumulate: int = 1
    """Parts of a process's batch that go through the model one after the other."""
    compile: bool = False
    """torch.compile for steps that are not measured."""

    @property
    def scaled_lr(self) -> float:
        """Highest learning rate of the run."""
        if self.lr_batch_size is None:
            return self.lr
        return self.lr * self.batch_size / self.lr_batch_size


RECIPES: dict[str, Recipe] = {
    "deit": Recipe(),
    "pang": Recipe(warmup_epochs=20),
    "paper": Recipe(weight_decay=1e-5, mixup_mode="elem", repeats=1),
}


def recipe(name: str, **changes: Any) -> Recipe:
    """Return a named recipe with some values changed.

    Raises:
        ValueError: If the recipe or a value's name is unknown, or a value can't be right.
    """
    if name not in RECIPES:
        raise ValueError(
            f"recipes: recipe must be one of {', '.join(RECIPES)}, got {name!r}. Correct the name."
        )
    known = {field.name: field.type for field in dataclasses.fields(Recipe)}
    for key, value in changes.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"recipes: a recipe's value must be known, got {key!r}. {hint}")
        if known[key] is float:
            changes[key] = float(value)  # YAML has 0 where 0.0 is meant
    changed = dataclasses.replace(RECIPES[name], **changes)
    _check(changed)
    return changed


def optimizer_and_schedule(
    model: nn.Module, recipe: Recipe, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, CosineLRScheduler]:
    """Return AdamW on the trainable parameters and its cosine schedule with warm-up.

    Biases, norms, position embedding and class token are not decayed. The schedule counts
    epochs, or steps with ``lr_per_step``; call ``step`` or ``step_update`` *before* the
    epoch or step it is meant for, so that no two epochs run at the warm-up rate.
    """
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=recipe.scaled_lr, weight_decay=recipe.weight_decay
    )
    unit = steps_per_epoch if recipe.lr_per_step else 1
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=recipe.epochs * unit,
        lr_min=recipe.min_lr,
        warmup_t=recipe.warmup_epochs * unit,
        warmup_lr_init=recipe.warmup_lr if recipe.warmup_epochs else 0.0,
        t_in_epochs=not recipe.lr_per_step,
    )
    return optimizer, schedule


def mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """Return timm's Mixup/CutMix for a recipe, or None where both are off."""
    if not (recipe.mixup or recipe.cutmix):
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mixup_prob,
        switch_prob=recipe.mixup_switch_prob,
        mode=recipe.mixup_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def _check(recipe: Recipe) -> None:
    rules = (
        (recipe.epochs > 0, "epochs", "positive", recipe.epochs),
        (recipe.batch_size > 0, "batch_size", "positive", recipe.batch_size),
        (
            recipe.batch_size % 2 == 0 or not (recipe.mixup or recipe.cutmix),
            "batch_size",
            "even with Mixup or CutMix",
            recipe.batch_size,
        ),
        (recipe.lr > 0, "lr", "positive", recipe.lr),
        (
            recipe.warmup_epochs < recipe.epochs,
            "warmup_epochs",
            f"below epochs ({recipe.epochs})",
            recipe.warmup_epochs,
        ),
        (
            recipe.crop in ("resized", "padded", "none"),
            "crop",
            "resized, padded or none",
            recipe.crop,
        ),
        (
            recipe.crop != "none" or recipe.auto_augment is None,
            "crop",
            "resized or padded with auto_augment",
            recipe.crop,
        ),
        (recipe.repeats > 0, "repeats", "positive", recipe.repeats),
        (recipe.accumulate > 0, "accumulate", "positive", recipe.accumulate),
        (recipe.mixup_mode in ("batch", "elem"), "mixup_mode", "batch or elem", recipe.mixup_mode),
        (0 <= recipe.label_smoothing < 1, "label_smoothing", "in 0..1", recipe.label_smoothing),
    )
    for holds, name, rule, got in rules:
        if not holds:
            raise ValueError(
                f"recipes: {name} must be {rule}, got {got!r}. Change training.{name}."
            )
