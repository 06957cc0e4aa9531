"""The training loop: one loss path or two, with a hook for whoever measures gradients.

Every draw of a step is seeded by (seed, epoch, step), and those of an image by its place in
the epoch. So a run goes on after an interruption exactly as if there had been none, and
runs that differ only in the model see the same batches with the same augmentation, which
makes their GSNR comparable. Processes that torchrun starts share each batch and hold the same
weights.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from rectify.epochs import Epochs, TrainingData
from rectify.recipes import Recipe, mixup, optimizer_and_schedule
from rectify.rectified import load_trainable_state, trainable_state
from rectify.runtime import autocast, process, seed_globals, summed

LAMBDA_FLOOR = 0.10  # Eq. 9
CHECKPOINT_FORMAT = 2
SAVE_SECONDS = 600.0  # what a lost node costs at most

log = logging.getLogger(__name__)


@runtime_checkable
class Observer(Protocol):
    """Looks at the gradients of some steps; the loop knows nothing else about it."""

    def measured_steps(self, steps_per_epoch: int) -> frozenset[int]: ...
    def watch(self, scale: float) -> contextlib.AbstractContextManager: ...
    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None: ...
    def record(self, epoch: int, samples: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Interrupted(Exception):
    """The training was asked to stop, and its state is saved."""


def auxiliary_weight(lambda_init: float, epoch: int, epochs: int) -> float:
    """Return lambda of Eq. 9 for an epoch counted from 0; 0 where there is no second path.

    It falls linearly from ``lambda_init`` and stays at 0.10, except that
    ``lambda_init = 0`` means no auxiliary loss: the floor would forbid that.
    """
    if lambda_init == 0:
        return 0.0
    return max(LAMBDA_FLOOR, lambda_init * (epochs - epoch) / epochs)


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
    stop: Callable[[], bool] = bool,
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
        save: Called with the whole state after each epoch and every ten minutes; of several
            processes, in the first.
        saved: What ``save`` was last called with, to go on from there.
        observer: Measures the gradients of some steps.
        report: Called with each epoch's row, in the first process.
        stop: Asked after each step whether to save and stop.

    Raises:
        ValueError: If a batch is larger than the data set, the state belongs to another
            run, or the loss is not finite.
        Interrupted: If ``stop`` said so, in any process.
    """
    loop = _Loop(model, data, recipe, lambda_init, seed, device, observer, save, stop)
    if saved:
        loop.restore(saved)
    done = len(loop.rows) * loop.steps + loop.part.step
    with tqdm(
        total=recipe.epochs * loop.steps,
        initial=done,
        disable=True if loop.rank else None,
        unit="step",
    ) as bar:
        for epoch in range(len(loop.rows), recipe.epochs):
            measured = loop.epoch(epoch, bar)
            top1, topk = evaluate(model)
            loop.rows.append((epoch, *measured[:5], top1, topk, *measured[5:]))
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs} test {top1:.1%}")
            loop.save()
            if report and loop.rank == 0:
                report(loop.rows[-1])
    return loop.rows


@dataclass
class _Part:
    """What has been done of an epoch."""

    step: int = 0
    losses: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0


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
        keep: Callable[[dict[str, Any]], None],
        stop: Callable[[], bool],
    ):
        self.model, self.recipe = model, recipe
        self.lambda_init, self.observer = lambda_init, observer
        self.seed, self.device = seed, device
        self.keep, self.stop, self.saved_at = keep, stop, time.monotonic()
        self.epochs = Epochs(data, recipe, seed, device)
        self.steps = self.epochs.steps
        self.optimizer, self.schedule = optimizer_and_schedule(model, recipe, self.steps)
        self.mixup = mixup(recipe, data.num_classes)
        self.measured = observer.measured_steps(self.steps) if observer else frozenset()
        self.rank, self.ranks = process()
        self.eager = _parallel(model, device) if self.ranks > 1 else model
        self.quick = torch.compile(self.eager) if recipe.compile else self.eager
        self.rows: list[tuple] = []
        self.part = _Part()

    def epoch(self, epoch: int, bar: tqdm) -> tuple:
        """Train for what is left of an epoch; return losses, lambda, lr, seconds, images/s."""
        weight, part = auxiliary_weight(self.lambda_init, epoch, self.recipe.epochs), self.part
        self.model.train()
        start = time.perf_counter() - part.seconds
        batches = self.epochs.read(epoch, part.step)
        for step in range(part.step, self.steps):
            *losses, stops = self._step(epoch, step, batches, weight)
            part.losses = [total + loss for total, loss in zip(part.losses, losses, strict=True)]
            part.step, part.seconds = step + 1, time.perf_counter() - start
            bar.update()
            bar.set_postfix(loss=f"{losses[0]:.3f}", refresh=False)
            self._pause(epoch, bool(stops))
        self.part = _Part()
        total, main, auxiliary = (value / self.steps for value in part.losses)
        rate = self.steps * self.epochs.samples / part.seconds
        lr = max(group["lr"] for group in self.optimizer.param_groups)  # of the head
        second = auxiliary if self.lambda_init else None
        return total, main, second, weight, lr, part.seconds, rate

    def _pause(self, epoch: int, stops: bool) -> None:
        """Save now and then, and stop if that is asked for."""
        if stops or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()
        if stops:
            raise Interrupted(
                f"training: stopped in epoch {epoch + 1} of {self.recipe.epochs} after step "
                f"{self.part.step} of {self.steps}, and saved. The same command goes on."
            )

    def _step(
        self, epoch: int, step: int, batches: Iterator[tuple[Tensor, Tensor]], weight: float
    ) -> list[float]:
        """Take one optimizer step; return the total, main and auxiliary loss, and who stops."""
        seed_globals(self.seed, "step", epoch, step, *([self.rank] if self.ranks > 1 else []))
        if self.recipe.lr_per_step:
            self.schedule.step_update(epoch * self.steps + step)
        else:
            self.schedule.step(epoch)
        measured = step in self.measured
        means = sum(
            self._backward(next(batches), weight, measured, last=part == self.epochs.parts - 1)
            for part in range(self.epochs.parts)
        )
        stops = torch.tensor([float(self.stop())], device=self.device)
        values = summed(torch.cat([means / self.ranks, stops])).tolist()
        _check_finite(values[0], epoch, step)
        if measured:
            self.observer.record(epoch, self.epochs.samples)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return values

    def _backward(
        self, batch: tuple[Tensor, Tensor], weight: float, measured: bool, last: bool
    ) -> Float[Tensor, " losses"]:
        """Add a part's gradients; return its share of the total, main and auxiliary loss."""
        images, targets = _mixed(self.mixup, *batch)
        share = 1 / self.epochs.parts
        waits = contextlib.nullcontext() if last or self.ranks == 1 else self.eager.no_sync()
        with waits, self.observer.watch(share) if measured else contextlib.nullcontext():
            forward = self.eager if measured else self.quick
            main, auxiliary = self._losses(forward, images, targets)
            total = total_loss(main, auxiliary, weight)
            if measured:
                self.observer.losses(main, auxiliary)
            (share * total).backward()
        second = torch.zeros_like(main) if auxiliary is None else auxiliary
        return share * torch.stack([total, main, second]).detach()

    def _losses(
        self, forward: nn.Module, images: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        smoothing = 0.0 if self.mixup else self.recipe.label_smoothing  # Mixup smooths itself
        with autocast(self.device, self.recipe.precision):
            logits = forward(images)
            main, second = logits if isinstance(logits, tuple) else (logits, None)
            losses = [
                None if one is None else cross_entropy(one, targets, label_smoothing=smoothing)
                for one in (main, second)
            ]
        return losses[0], losses[1]

    def save(self) -> None:
        """Hand over everything that the next step depends on; after the last one, the result."""
        self.saved_at = time.monotonic()
        has_ended = len(self.rows) == self.recipe.epochs
        if self.rank == 0:
            self.keep(
                {
                    "format": CHECKPOINT_FORMAT,
                    "seed": self.seed,
                    "rows": [list(row) for row in self.rows],
                    "part": vars(self.part),
                    "model": trainable_state(self.model),
                    "optimizer": {} if has_ended else self.optimizer.state_dict(),
                    "observer": self.observer.state_dict() if self.observer else {},
                }
            )

    def restore(self, saved: dict[str, Any]) -> None:
        """Put a saved state back."""
        if saved.get("format") != CHECKPOINT_FORMAT or saved.get("seed") != self.seed:
            raise ValueError(
                f"training: the checkpoint must be of format {CHECKPOINT_FORMAT} and seed "
                f"{self.seed}, got {saved.get('format')} and {saved.get('seed')}. Delete it."
            )
        load_trainable_state(self.model, saved["model"], "training: the checkpoint")
        if saved["optimizer"]:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.observer:
            self.observer.load_state_dict(saved["observer"])
        self.rows, self.part = [tuple(row) for row in saved["rows"]], _Part(**saved["part"])
        log.info(
            "resumed after epoch %d of %d, step %d of %d",
            len(self.rows), self.recipe.epochs, self.part.step, self.steps,
        )  # fmt: skip


def _parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients over the processes; a frozen block has none."""
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, devices, broadcast_buffers=False)


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
