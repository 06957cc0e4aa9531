"""A recipe's optimizer and schedule: AdamW, and a rate that follows a cosine, a line or steps."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import partial

import torch
from timm.optim import create_optimizer_v2, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import nn

from rectify.training.recipes import Recipe


def optimizer_and_schedule(
    model: nn.Module, recipe: Recipe, steps_per_epoch: int
) -> tuple[torch.optim.Optimizer, Scheduler]:
    """Return AdamW on the trainable parameters and its schedule with warm-up.

    Biases, norms, what the model's ``no_weight_decay`` names and what fits the recipe's
    ``undecayed`` are not decayed. With
    ``layer_decay`` the head, the norm before it and what is no part of the trunk learn at the
    full rate. The schedule counts epochs, or steps with ``lr_per_step``; call ``step`` or
    ``step_update`` *before* the epoch or step it is meant for, so that no two epochs run at the
    warm-up rate.

    Raises:
        ValueError: If ``lr_factors`` are given and a trained tensor does not fit exactly one.
    """
    is_grouped = bool(recipe.lr_factors or recipe.undecayed)
    optimizer = create_optimizer_v2(
        _grouped(model, recipe) if is_grouped else model,
        opt="adamw",
        lr=recipe.scaled_lr,
        weight_decay=0.0 if is_grouped else recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        betas=recipe.betas,
        fused=True,  # one kernel for all tensors, on CPUs too
    )
    unit = steps_per_epoch if recipe.lr_per_step else 1
    warmup_lr = recipe.warmup_lr if recipe.warmup_epochs else 0.0
    if recipe.schedule == "step":
        return optimizer, _Steps(optimizer, recipe, unit, warmup_lr)
    before = recipe.warmup_epochs if recipe.warmup_prefix else 0
    line = partial(PolyLRScheduler, power=1.0)
    schedule = (CosineLRScheduler if recipe.schedule == "cosine" else line)(
        optimizer,
        t_initial=(recipe.epochs - before) * unit,
        lr_min=recipe.scaled_min_lr,
        warmup_t=recipe.warmup_epochs * unit,
        warmup_prefix=recipe.warmup_prefix,
        warmup_lr_init=warmup_lr,
        t_in_epochs=not recipe.lr_per_step,
    )
    return optimizer, schedule


class _Steps(Scheduler):
    """Warm-up, then the full rate times ``gamma`` for each milestone that has been reached."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, recipe: Recipe, unit: int, warmup_lr: float
    ):
        super().__init__(optimizer, "lr", t_in_epochs=not recipe.lr_per_step)
        self._warmup, self._warmup_lr = recipe.warmup_epochs * unit, warmup_lr
        before = recipe.warmup_epochs if recipe.warmup_prefix else 0
        self._milestones = [(epoch + before) * unit for epoch in recipe.milestones]
        self._gamma = recipe.gamma

    def _get_lr(self, t: int) -> list[float]:
        if t < self._warmup:
            first, share = self._warmup_lr, t / self._warmup
            return [first + share * (full - first) for full in self.base_values]
        factor = self._gamma ** bisect_right(self._milestones, t)
        return [factor * full for full in self.base_values]


def _grouped(model: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Return groups of parameters with the factor of their rate, decayed ones and others apart."""
    factors = {
        name: _factor(name, recipe.lr_factors)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    listed = {*(model.no_weight_decay() if hasattr(model, "no_weight_decay") else ())}
    listed |= {
        name for name in factors if any(re.search(pattern, name) for pattern in recipe.undecayed)
    }
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=listed)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        {**group, "params": chosen, "lr_scale": factor}
        for group in groups
        for factor in sorted(set(factors.values()))
        if (chosen := [tensor for tensor in group["params"] if factors[names[tensor]] == factor])
    ]


def _factor(name: str, factors: Iterable[tuple[str, float]]) -> float:
    factors = list(factors) or [("", 1.0)]  # no pattern: all at one rate
    fitting = [(pattern, factor) for pattern, factor in factors if re.search(pattern, name)]
    if len(fitting) != 1:
        given = " and ".join(pattern for pattern, _ in fitting) or "none"
        raise ValueError(
            f"training: each trained tensor must fit one pattern of lr_factors, got {given} for "
            f"{name}. Change training.lr_factors."
        )
    return fitting[0][1]
