"""The training loop: one loss path or two, with a hook for whoever measures gradients.

Every draw of a step is seeded by (seed, epoch, step), and those of an item by its place in
the epoch. So a run resumes after an interruption exactly as if there had been none, and
runs that differ only in the model see the same batches with the same augmentation, which
makes their GSNR comparable. Processes that torchrun starts share each batch and hold the same
weights.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from rectify.rectified import AuxiliaryModel, load_trainable_state, trainable_state
from rectify.runtime import Later, autocast, compiled, process, seed_globals, summed
from rectify.tasks.contract import Batch, Source, Task
from rectify.training.objective import LAMBDA_FLOOR, Objective, auxiliary_weight
from rectify.training.optimizer import optimizer_and_schedule
from rectify.training.order import Epochs
from rectify.training.progress import EpochRow, Progress, Step
from rectify.training.recipes import Recipe

FORMAT = 5  # of a saved state
SAVE_SECONDS = 600.0  # what a lost node costs at most

log = logging.getLogger(__name__)

State = dict[str, object]


@runtime_checkable
class Observer(Protocol):
    """Looks at the gradients of some steps; the loop knows nothing else about it."""

    def measured_steps(self, steps_per_epoch: int) -> frozenset[int]: ...
    def watch(self, scale: float, origins: Tensor | None) -> contextlib.AbstractContextManager: ...
    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None: ...
    @property
    def is_apart(self) -> bool: ...
    @property
    def is_compiled(self) -> bool: ...
    @property
    def is_in_eval(self) -> bool: ...
    @property
    def parameters(self) -> list[nn.Parameter]: ...
    def record(self, epoch: int, samples: int) -> None: ...
    def state_dict(self) -> Mapping[str, object]: ...
    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


@runtime_checkable
class EveryStep(Protocol):
    """Looks at the gradients of every step that trains."""

    def watch(self, scale: float, origins: Tensor | None) -> contextlib.AbstractContextManager: ...
    @property
    def is_compiled(self) -> bool: ...
    def record(self, epoch: int, step: int) -> None: ...
    def state_dict(self) -> Mapping[str, object]: ...
    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Interrupted(Exception):
    """The training was asked to stop, and its state is saved."""


@dataclass(frozen=True)
class Hooks:
    """What a loop calls on its way."""

    evaluate: Callable[[nn.Module], dict[str, float]]
    """Returns ``test_loss`` and the headline metric; called after each epoch."""
    save: Callable[[State], None]
    """Keeps the state: after each epoch and every ten minutes; of several processes, the first."""
    report: Callable[[EpochRow], None] | None = None
    """Called with each epoch's row, in the first process."""
    outline: Callable[[nn.Module], dict[str, float]] | None = None
    """Returns the IoU of activations with masks; called after each epoch."""
    stop: Callable[[], bool] = bool
    """Asked after each step whether to save and stop."""


class Loop:
    """One training of a model, in place."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        source: Source,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        lambda_init: float = 0.0,
        lambda_floor: float = LAMBDA_FLOOR,
        observer: Observer | None = None,
        unmixed: Source | None = None,
        noise: EveryStep | None = None,
    ):
        """Start nothing yet.

        Args:
            model: On the device; an auxiliary model has two losses.
            task: Whose losses are minimised.
            source: The training set.
            recipe: Every value of the training.
            seed: Decides the order of items and every random draw.
            device: Where the model is.
            lambda_init: First weight of the auxiliary loss, 0 for none.
            lambda_floor: What that weight never falls below.
            observer: Measures the gradients of some steps.
            unmixed: The training set as the observer's own pass is to see it; else as trained.
            noise: Measures every step; passes that the observer watches are handed on by that.

        Raises:
            ValueError: If a batch is larger than the data set or cannot be divided, or a value of
                the recipe does not suit the model.
        """
        self.model, self.task, self.recipe = model, task, recipe
        self.seed, self.device = seed, device
        self.observer, self.unmixed, self.noise = observer, unmixed, noise
        self.lambda_init, self.lambda_floor = lambda_init, lambda_floor
        self.rank, self.ranks = process()
        self.epochs = Epochs(source, recipe, seed, device)
        self.optimizer, self.schedule = optimizer_and_schedule(model, recipe, self.epochs.steps)
        self.trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
        self.two_paths = isinstance(model, AuxiliaryModel)
        self.measured = observer.measured_steps(self.epochs.steps) if observer else frozenset()
        self.eager = _parallel(model, device) if self.ranks > 1 else model
        self.quick = compiled(self.eager) if recipe.compile else self.eager
        self.progress, self.saved_at = Progress(), time.monotonic()
        self.started: list[Step] = []  # steps, and not read yet
        self.behind = 0 if device.type == "cpu" else 1  # a GPU has a step to compute meanwhile
        self.loss, self.is_asked = math.nan, False  # of the last step that was read; to stop

    def run(self, hooks: Hooks) -> list[EpochRow]:
        """Train for the epochs that are left, and return the rows of all.

        Raises:
            ValueError: If the loss is not finite.
            Interrupted: If ``hooks.stop`` said so, in any process.
        """
        epochs, steps, rows = self.recipe.epochs, self.epochs.steps, self.progress.rows
        done, hidden = len(rows) * steps + self.progress.step, True if self.rank else None
        with tqdm(total=epochs * steps, initial=done, disable=hidden, unit="step") as bar:
            for epoch in range(len(rows), epochs):
                row = self.epoch(epoch, hooks, bar)
                row = replace(row, test=hooks.evaluate(self.model))
                if hooks.outline:
                    row = replace(row, outlines=hooks.outline(self.model))
                rows.append(row)
                bar.set_description(f"epoch {epoch + 1}/{epochs}, {_shown(row.test)}")
                self.save(hooks)
                if hooks.report and self.rank == 0:
                    hooks.report(row)
        return rows

    def epoch(self, epoch: int, hooks: Hooks, bar: tqdm) -> EpochRow:
        """Train for the steps that are left of an epoch; return its row, not tested yet."""
        progress, weight = self.progress, self.weight(epoch)
        self.model.train()
        start = time.perf_counter() - progress.seconds
        batches = self.epochs.read(epoch, progress.step)
        for step in range(progress.step, self.epochs.steps):
            self.started.append(self.step(batches, epoch, step, weight, hooks.stop))
            progress.step = step + 1
            self._read(self.behind if progress.step < self.epochs.steps else 0)
            progress.seconds = time.perf_counter() - start
            bar.update()
            bar.set_postfix(loss=f"{self.loss:.3f}", refresh=False)
            self._pause(epoch, hooks)
        total, main, auxiliary = (value / self.epochs.steps for value in progress.losses)
        seconds, samples = progress.seconds, self.epochs.steps * self.epochs.samples
        self.progress = Progress(progress.rows)
        return EpochRow(
            epoch=epoch,
            train_loss=total,
            main_loss=main,
            auxiliary_loss=auxiliary if self.two_paths else None,
            weight=weight,
            lr=max(group["lr"] for group in self.optimizer.param_groups),
            train_seconds=seconds,
            items_per_second=samples / seconds,
        )

    def step(
        self,
        batches: Iterator[Batch],
        epoch: int,
        step: int,
        weight: float,
        stop: Callable[[], bool],
    ) -> Step:
        """Take one optimizer step, for whose end nothing here waits.

        Args:
            batches: Gives the slices of the step's batch next.
            epoch: Counted from 0.
            step: Of the epoch, counted from 0.
            weight: Of the auxiliary loss.
            stop: Asked whether to stop.
        """
        seed_globals(self.seed, "step", epoch, step, *([self.rank] if self.ranks > 1 else []))
        self._set_rate(epoch, step)
        is_measured, slices = step in self.measured, self.epochs.slices
        share, means = 1 / slices, torch.zeros(3, device=self.device)
        apart = None
        if is_measured and self.unmixed is not None:
            apart = self.epochs.read(epoch, step, step + 1, self.unmixed)
        for number in range(slices):
            batch = next(batches)
            if is_measured and self.observer.is_apart:
                self._measure(batch if apart is None else next(apart), weight, share)
            with contextlib.ExitStack() as stack:
                if self.ranks > 1 and number < slices - 1:
                    stack.enter_context(self.eager.no_sync())  # gradients are averaged at the end
                is_watched = is_measured and not self.observer.is_apart
                watching = self.observer if is_watched else self.noise
                if watching is not None:
                    stack.enter_context(watching.watch(share, batch.get("origins")))
                is_quick = watching is None or watching.is_compiled
                objective = self._objective(self.quick if is_quick else self.eager, batch, weight)
                if is_watched:
                    self.observer.losses(objective.main, objective.auxiliary)
                (share * objective.total).backward()
            means += share * objective.values()
        stops = torch.full((1,), float(stop()), device=self.device)
        values = Later(summed(torch.cat([means / self.ranks, stops])))
        if is_measured:
            self.observer.record(epoch, self.epochs.samples)
        if self.noise:
            self.noise.record(epoch, step)
        if self.recipe.clip_gradient is not None:
            nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Step(epoch, step, values)

    def weight(self, epoch: int) -> float:
        """Return the weight of the auxiliary loss in an epoch (Eq. 9)."""
        return auxiliary_weight(self.lambda_init, epoch, self.recipe.epochs, self.lambda_floor)

    def save(self, hooks: Hooks) -> None:
        """Hand over everything that the next step depends on; after the last one, the result."""
        self._read()  # no state is kept whose loss is not finite
        self.saved_at = time.monotonic()
        has_ended = len(self.progress.rows) == self.recipe.epochs
        if self.rank == 0:
            hooks.save(
                {
                    "format": FORMAT,
                    "seed": self.seed,
                    "progress": asdict(self.progress),
                    "model": trainable_state(self.model),
                    "optimizer": {} if has_ended else self.optimizer.state_dict(),
                    "observer": dict(self.observer.state_dict()) if self.observer else {},
                    "noise": dict(self.noise.state_dict()) if self.noise else {},
                }
            )

    def restore(self, saved: State) -> None:
        """Put a saved state back.

        Raises:
            ValueError: If it belongs to another training.
        """
        if saved.get("format") != FORMAT or saved.get("seed") != self.seed:
            raise ValueError(
                f"training: the state must be of format {FORMAT} and seed {self.seed}, got "
                f"{saved.get('format')} and {saved.get('seed')}. Delete it."
            )
        load_trainable_state(self.model, saved["model"], "training: the state")
        if saved["optimizer"]:
            self.optimizer.load_state_dict(saved["optimizer"])
        if self.observer:
            self.observer.load_state_dict(saved["observer"])
        if self.noise:
            self.noise.load_state_dict(saved["noise"])
        rows = [EpochRow(**row) for row in saved["progress"]["rows"]]
        self.progress = Progress(**{**saved["progress"], "rows": rows})
        log.info(
            "resumed after epoch %d of %d, step %d of %d",
            len(rows), self.recipe.epochs, self.progress.step, self.epochs.steps,
        )  # fmt: skip

    def _objective(self, forward: Callable[..., object], batch: Batch, weight: float) -> Objective:
        with autocast(self.device, self.recipe.precision):
            outputs = forward(batch["inputs"])
            paths = outputs if self.two_paths else (outputs,)
            losses = [self._mean(self.task.losses(path, batch)) for path in paths]
        return Objective.of(losses[0], losses[1] if self.two_paths else None, weight)

    def _measure(self, batch: Batch, weight: float, share: float) -> None:
        """Measure a slice in a pass of its own, which trains nothing and draws nothing.

        Where it has dropout and stochastic depth, these are as in the pass that trains; norms
        over the batch keep their running statistics.
        """
        if self.observer.is_in_eval:
            self.model.eval()
            self.model.training = True  # it still returns both paths
        devices = [self.device] if self.device.type == "cuda" else []
        statistics = {own: own.clone() for norm in _batch_norms(self.model)
                      for own in norm.buffers()}  # fmt: skip
        watch = self.observer.watch(share, batch.get("origins"))
        with torch.random.fork_rng(devices), watch:
            objective = self._objective(self.model, batch, weight)
            self.observer.losses(objective.main, objective.auxiliary)
            torch.autograd.grad(
                share * objective.total, self.observer.parameters, allow_unused=True
            )
        for own, before in statistics.items():
            own.copy_(before)
        self.model.train()

    def _mean(self, losses: Tensor) -> Tensor:
        """Return the mean over a slice, of one loss per sample: GSNR would be wrong otherwise."""
        samples = self.epochs.samples // (self.ranks * self.epochs.slices)
        if losses.shape != (samples,):
            raise ValueError(
                f"training: a task must return {samples} losses, one per sample, got shape "
                f"{tuple(losses.shape)}. Correct the task's losses."
            )
        return losses.mean()

    def _set_rate(self, epoch: int, step: int) -> None:
        if self.recipe.lr_per_step:
            self.schedule.step_update(epoch * self.epochs.steps + step)
        else:
            self.schedule.step(epoch)

    def _read(self, left: int = 0) -> None:
        """Take in what the started steps gave, but for the last ``left``."""
        while len(self.started) > left:
            losses, is_asked = self.started.pop(0).read()
            progress = self.progress
            progress.losses = [a + b for a, b in zip(progress.losses, losses, strict=True)]
            self.loss, self.is_asked = losses[0], self.is_asked or is_asked

    def _pause(self, epoch: int, hooks: Hooks) -> None:
        """Save now and then, and stop if that is asked for."""
        if self.is_asked or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save(hooks)
        if self.is_asked:
            raise Interrupted(
                f"training: stopped in epoch {epoch + 1} of {self.recipe.epochs} after step "
                f"{self.progress.step} of {self.epochs.steps}, and saved. Rerun the same command "
                "to resume."
            )


def _batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """Average gradients over the processes; a frozen layer has none.

    Raises:
        ValueError: If the model has norms over the batch, of which each process has a part.
    """
    if _batch_norms(model):
        raise ValueError(
            "training: a model with norms over the batch must train in one process, got several. "
            "Set device_gpus to 1."
        )
    devices = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, devices, broadcast_buffers=False)


def _shown(test: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in test.items())
