"""The training loop: one loss path or two, with a hook for whoever measures gradients.

Every draw of a step is seeded by (seed, epoch, step), and those of an image by its place in
the epoch. So a run goes on after an interruption exactly as if there had been none, and
runs that differ only in the model see the same batches with the same augmentation, which
makes their GSNR comparable.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from rectify.data.augment import Augment, draw, seeds
from rectify.data.batches import Prepare, Reader
from rectify.recipes import Recipe, mixup, optimizer_and_schedule
from rectify.rectified import load_trainable_state, trainable_state
from rectify.runtime import autocast, generator, seed_globals

LAMBDA_FLOOR = 0.10  # Eq. 9
CHECKPOINT_FORMAT = 1

log = logging.getLogger(__name__)


@runtime_checkable
class Observer(Protocol):
    """Looks at the gradients of some steps; the loop knows nothing else about it."""

    def measured_steps(self, steps_per_epoch: int) -> frozenset[int]: ...
    def watch(self) -> contextlib.AbstractContextManager: ...
    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None: ...
    def record(self, epoch: int, samples: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainingData:
    """Training images as they are stored, and what is done to them."""

    images: Any
    """Indexed by an item number, or by a tensor of them where nothing prepares the images."""
    labels: Int[Tensor, " items"]
    num_classes: int
    augment: Augment
    """From a batch on the device, and the random numbers of its images, to the model's input."""
    prepare: Prepare | None = None
    """From one image or clip to the model's size, where they are read."""
    workers: int = 0
    """Processes that read and prepare ahead."""


def auxiliary_weight(lambda_init: float, epoch: int, epochs: int) -> float:
    """Return lambda of Eq. 9 for an epoch counted from 0; 0 where there is no second path.

    It falls linearly from ``lambda_init`` and stays at 0.10, except that
    ``lambda_init = 0`` means no auxiliary loss: the floor would forbid that.
    """
    if lambda_init == 0:
        return 0.0
    return max(LAMBDA_FLOOR, lambda_init * (epochs - epoch) / epochs)


def item_order(items: int, repeats: int, seed: int, epoch: int) -> Int[Tensor, " items"]:
    """Return the items of an epoch in their order, another one in each epoch.

    With ``repeats`` above 1 the first ``1 / repeats`` of a permutation stand so many times one
    after the other: repeated augmentation (Hoffer et al., 2020), as DeiT samples it.
    """
    order = torch.randperm(items, generator=generator(seed, "order", epoch))
    return order.repeat_interleave(repeats)[:items]


def total_loss(
    main: Float[Tensor, ""], auxiliary: Float[Tensor, ""] | None, weight: float
) -> Float[Tensor, ""]:
    """Return (1 - lambda) main + lambda auxiliary (Eq. 10); ``main`` without a second path."""
    return main if auxiliary is None else (1 - weight) * main + weight * auxiliary


def train(
    model: nn.Module,
    data: TrainingData,
    recipe: Recipe,
    *,
    lambda_init: float,
    seed: int,
    device: torch.device,
    evaluate: Callable[[nn.Module], tuple[float, float]],
    save: Callable[[dict[str, Any]], None],
    saved: dict[str, Any] | None = None,
    observer: Observer | None = None,
    report: Callable[[tuple], None] | None = None,
) -> list[tuple]:
    """Train ``model`` in place and return the rows of its history.

    Args:
        model: Returns logits, or (main, auxiliary) logits while training.
        data: The training set.
        recipe: Every value of the training.
        lambda_init: First weight of the auxiliary loss, 0 for none.
        seed: Decides the order of items and every random draw.
        device: Where the model lies and the batches go.
        evaluate: Returns (top-1, top-k) accuracy of the model on the test set.
        save: Called with the whole state after each epoch.
        saved: What ``save`` was last called with, to go on from there.
        observer: Measures the gradients of some steps.
        report: Called with each epoch's row.

    Raises:
        ValueError: If a batch is larger than the data set, the state belongs to another
            run, or the loss is not finite.
    """
    loop = _Loop(model, data, recipe, lambda_init, seed, device, observer)
    rows = loop.restore(saved) if saved else []
    with tqdm(
        total=recipe.epochs * loop.steps, initial=len(rows) * loop.steps, disable=None, unit="step"
    ) as bar:
        for epoch in range(len(rows), recipe.epochs):
            measured = loop.epoch(epoch, bar)
            top1, topk = evaluate(model)
            rows.append((epoch, *measured[:5], top1, topk, *measured[5:]))
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs} test {top1:.1%}")
            save(loop.state(rows))
            if report:
                report(rows[-1])
    return rows


class _Loop:
    """What the epochs of one run share."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        recipe: Recipe,
        lambda_init: float,
        seed: int,
        device: torch.device,
        observer: Observer | None,
    ):
        self.model, self.data, self.recipe = model, data, recipe
        self.lambda_init, self.observer = lambda_init, observer
        self.seed, self.device = seed, device
        self.reader = Reader(data.images, data.prepare, data.workers, device)
        self.steps = _steps_per_epoch(len(data.labels), recipe.batch_size)
        self.samples = recipe.batch_size * recipe.augment_repeats  # of a step
        self.optimizer, self.schedule = optimizer_and_schedule(model, recipe, self.steps)
        self.mixup = mixup(recipe, data.num_classes)
        self.measured = observer.measured_steps(self.steps) if observer else frozenset()

    def epoch(self, epoch: int, bar: tqdm) -> tuple:
        """Train for one epoch; return losses, lambda, lr, seconds and images per second."""
        weight = auxiliary_weight(self.lambda_init, epoch, self.recipe.epochs)
        sums = [0.0, 0.0, 0.0]
        self.model.train()
        start = time.perf_counter()
        for step, batch in enumerate(self._batches(epoch)):
            losses = self._step(epoch, step, batch, weight)
            sums = [total + loss for total, loss in zip(sums, losses, strict=True)]
            bar.update()
            bar.set_postfix(loss=f"{losses[0]:.3f}", refresh=False)
        seconds = time.perf_counter() - start
        total, main, auxiliary = (value / self.steps for value in sums)
        rate = self.steps * self.samples / seconds
        lr = max(group["lr"] for group in self.optimizer.param_groups)  # of the head
        second = auxiliary if self.lambda_init else None
        return total, main, second, weight, lr, seconds, rate

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the augmented images and the labels of each step.

        Random numbers belong to places in the epoch: who takes a part of the places gets the
        images that all places would have had there.
        """
        order = item_order(len(self.data.labels), self.recipe.repeats, self.seed, epoch)
        order = order.repeat_interleave(self.recipe.augment_repeats)
        draws = draw(len(order), generator(self.seed, "augment", epoch))
        places = torch.arange(self.steps * self.samples)
        stored = self.reader.read(order[places], self.samples, seeds(draws[places]))
        for images, part in zip(stored, places.split(self.samples), strict=True):
            labels = self.data.labels[order[part]].to(self.device)
            yield self.data.augment(images, draws[part]), labels

    def _step(self, epoch: int, step: int, batch: tuple[Tensor, Tensor], weight: float) -> tuple:
        """Take one optimizer step; return the total, main and auxiliary loss."""
        seed_globals(self.seed, "step", epoch, step)
        if self.recipe.lr_per_step:
            self.schedule.step_update(epoch * self.steps + step)
        else:
            self.schedule.step(epoch)
        images, targets = _mixed(self.mixup, *batch)
        measured = step in self.measured
        with self.observer.watch() if measured else contextlib.nullcontext():
            main, auxiliary = self._losses(images, targets)
            total = total_loss(main, auxiliary, weight)
            if measured:
                self.observer.losses(main, auxiliary)
            total.backward()
        losses = total.item(), main.item(), 0.0 if auxiliary is None else auxiliary.item()
        _check_finite(losses[0], epoch, step)
        if measured:
            self.observer.record(epoch, len(images))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses

    def _losses(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        smoothing = 0.0 if self.mixup else self.recipe.label_smoothing  # Mixup smooths itself
        with autocast(self.device, self.recipe.precision):
            logits = self.model(images)
            main, second = logits if isinstance(logits, tuple) else (logits, None)
            losses = [
                None if one is None else cross_entropy(one, targets, label_smoothing=smoothing)
                for one in (main, second)
            ]
        return losses[0], losses[1]

    def state(self, rows: list[tuple]) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        return {
            "format": CHECKPOINT_FORMAT,
            "seed": self.seed,
            "rows": [list(row) for row in rows],
            "model": trainable_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "observer": self.observer.state_dict() if self.observer else {},
        }

    def restore(self, saved: dict[str, Any]) -> list[tuple]:
        """Put a saved state back and return the rows of the epochs that are done."""
        if saved.get("format") != CHECKPOINT_FORMAT or saved.get("seed") != self.seed:
            raise ValueError(
                f"training: the checkpoint must be of format {CHECKPOINT_FORMAT} and seed "
                f"{self.seed}, got {saved.get('format')} and {saved.get('seed')}. Delete it."
            )
        load_trainable_state(self.model, saved["model"], "training: the checkpoint")
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.observer:
            self.observer.load_state_dict(saved["observer"])
        log.info("resumed after epoch %d of %d", len(saved["rows"]), self.recipe.epochs)
        return [tuple(row) for row in saved["rows"]]


def _steps_per_epoch(items: int, batch_size: int) -> int:
    if items < batch_size:
        raise ValueError(
            f"training: batch_size must not exceed the {items} training items, got {batch_size}. "
            "Lower training.batch_size in the config."
        )
    return items // batch_size  # a ragged last batch is left out: GSNR depends on its size


def _mixed(mix: Mixup | None, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if mix is None:
        return images, targets
    flat, soft = mix(images.flatten(1, -3), targets)  # clips: frames and channels together
    return flat.reshape(images.shape), soft


def _check_finite(loss: float, epoch: int, step: int) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"training: the loss must be finite, got {loss} in epoch {epoch}, step {step}. "
            "Lower training.lr; the checkpoint of the epoch before is kept."
        )
