"""One run with one seed: from its settings and files to its results.

history.csv  gsnr.csv  model.safetensors  summary.json, and noise.csv where every step is measured
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from rectify.data.manifests import ARRAYS, LISTING, label_order
from rectify.gsnr.noise import NoiseObserver
from rectify.gsnr.observer import GsnrObserver
from rectify.language.block import block_facts
from rectify.rectified import trunk_of
from rectify.results.declared import GSNR, HISTORY, NOISE
from rectify.results.files import write_json
from rectify.results.provenance import provenance, source_digest
from rectify.results.tables import write_table
from rectify.runtime import device_text, process, stop_asked
from rectify.tasks import find, module_of
from rectify.tasks.contract import Machine, Source
from rectify.training.evaluation import headline, item_scores, means
from rectify.training.loop import Hooks, Interrupted, Loop
from rectify.training.models import RunSettings, entry_of, save_model, untrained
from rectify.training.progress import EpochRow
from rectify.training.recipes import Recipe, measured_samples
from rectify.training.report import Reporter
from rectify.training.state import States, identity, sha256
from rectify.training.trackers import Followed, Tracker, opened
from rectify.trunks.trunk import Trunk

log = logging.getLogger(__name__)

CODE = ("rectify.training.run",)
"""Modules that decide a run's weights, next to that of its task (``rectify.tasks.module_of``)."""


@runtime_checkable
class Outline(Protocol):
    """Compares activations with masks of images, e.g. ``rectify.filtering.measure.outlines``."""

    def __call__(self, model: torch.nn.Module, source: Source) -> dict[str, float]: ...


@dataclass(frozen=True)
class Files:
    """Where a training reads and writes."""

    data: Path
    """Folder of the prepared set."""
    block: Path | None
    """The frozen layer, where the variant has one."""
    states: Path
    """Folder of the last two states."""
    progress: Path
    """Says how far the training is, for people."""
    output: Path
    """Folder of the results."""


class Training:
    """The training of one run with one seed."""

    def __init__(
        self,
        settings: RunSettings,
        seed: int,
        files: Files,
        *,
        device: torch.device,
        threads: int,
        trackers: Sequence[str] = (),
        events: Path = Path("events"),
        outline: Outline | None = None,
        code: tuple[str, ...] = CODE,
    ):
        """Build the model, and start nothing yet.

        Args:
            settings: What decides the weights.
            seed: Of everything that is drawn.
            files: Where it reads and writes.
            device: Where it trains.
            threads: Of this job.
            trackers: Names of those that show its curves.
            events: Folder for their files, where there are trackers.
            outline: Compares the model's activations on the test set with masks.
            code: Modules that decide the results, next to that of the task.

        Raises:
            ValueError: If a file is missing, damaged or of something else, or settings don't go
                together.
        """
        self.settings, self.seed, self.files, self.events = settings, seed, files, events
        self.trackers = trackers
        self.outline = outline
        self.task, self.recipe = find(settings.task), settings.recipe
        self.entry = entry_of(settings, self.task)
        self.machine = Machine.of(device, threads)
        self.model = untrained(settings, self.task, files.block, seed).to(device)
        gsnr = settings.gsnr
        trunk = trunk_of(self.model)
        self.noise = self._noise(trunk)
        self.observer = GsnrObserver(
            trunk.blocks,
            gsnr.batches,
            gsnr.xi,
            gsnr.mode,
            gsnr.loss,
            group=gsnr.group,
            model=gsnr.model,
            labels=gsnr.labels,
            parameters=gsnr.parameters,
            whole=getattr(trunk, "whole", ()),
            compiled=self.recipe.compile,
            noise=self.noise,
        )
        self.code = (*code, module_of(settings.task))

    def run(self, stop: Callable[[], bool]) -> None:
        """Train, from where an earlier attempt came to, and write the results.

        Args:
            stop: Asked after each step whether to save and stop.

        Raises:
            Interrupted: If ``stop`` said so; the same training resumes from there.
        """
        states = States(self.files.states, self._identity)
        is_hard = self.settings.gsnr.labels == "hard"
        loop = Loop(
            self.model,
            self.task,
            self._training_source(self.recipe),
            self.recipe,
            seed=self.seed,
            device=self.machine.device,
            lambda_init=self.settings.lambda_init,
            lambda_floor=self.settings.lambda_floor,
            observer=self.observer,
            unmixed=self._training_source(self.recipe.unmixed) if is_hard else None,
            noise=self.noise,
        )
        number, count = process()
        where = f"{device_text(self.machine.device)}, process {number + 1} of {count}"
        log.info("%s, seed %d, on %s", self.settings.run, self.seed, where)
        if saved := states.load():
            loop.restore(saved)
        files = self.files
        outline = self.outline and partial(self.outline, source=self._test_source)
        with self._tracked() as trackers:
            report = Reporter(files.progress, self.recipe.epochs, self.observer, trackers)
            rows = loop.run(Hooks(self._evaluate, states.save, report, outline, stop))
        if process()[0] == 0:
            self.write(rows)
            states.keep_last()  # the job may still fail, and then its results are removed
            self.files.progress.unlink(missing_ok=True)

    def write(self, rows: list[EpochRow]) -> None:
        """Write what the run is judged by; each file appears complete or not at all."""
        run, output, source = self.settings.run, self.files.output, self._provenance()
        gradients = [row for epoch in range(len(rows)) for row in self.observer.rows(epoch)]
        write_table(GSNR, gradients, output / "gsnr.csv", source)
        if self.noise is not None:
            write_table(NOISE, self.noise.rows(), output / "noise.csv", source)
        history = [(row.epoch, *pair) for row in rows for pair in row.metrics().items()]
        write_table(HISTORY, history, output / "history.csv", source)
        facts = {"run": f"{run}--seed-{self.seed}", "label_order": label_order(self.files.data)}
        save_model(self.model, facts, output / "model.safetensors")
        counts = [(tensor.numel(), tensor.requires_grad) for tensor in self.model.parameters()]
        summary = {
            "run": run,
            "seed": self.seed,
            "epochs": len(rows),
            **rows[-1].test,
            "parameters": sum(count for count, _ in counts),
            "parameters_trained": sum(count for count, trained in counts if trained),
        }
        write_json(output / "summary.json", summary)

    def _noise(self, trunk: Trunk) -> NoiseObserver | None:
        """Return what measures every step, where that is asked for."""
        every_step = self.settings.gsnr.every_step
        if every_step is None:
            return None
        samples = measured_samples(every_step.samples, self.recipe, process()[1])
        whole = getattr(trunk, "whole", ())
        compiled = self.recipe.compile
        return NoiseObserver(
            trunk.blocks, samples, every_step.steps, whole=whole, compiled=compiled
        )

    @contextmanager
    def _tracked(self) -> Iterator[list[Tracker]]:
        """Give open trackers to the process that reports, and close them at the end."""
        name = f"{self.settings.run}--seed-{self.seed}"
        settings = self.settings.model_dump(mode="json")
        followed = Followed(name, self._identity, settings, self.events)
        trackers = opened(self.trackers if process()[0] == 0 else (), followed)
        try:
            yield trackers
        finally:
            for tracker in trackers:
                tracker.close()

    def _training_source(self, recipe: Recipe) -> Source:
        return self.task.training_source(self.entry, self.files.data, recipe, self.machine)

    def _evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        scores = item_scores(
            model,
            self.task,
            self._test_source,
            batch_size=self.recipe.batch_size,
            device=self.machine.device,
            precision=self.recipe.precision,
        )
        values, metric = means(scores), self.task.metrics[0]
        return {"test_loss": values["loss"], metric.name: headline(values, metric)}

    @cached_property
    def _test_source(self) -> Source:
        sets = self.task.test_sets(self.entry, self.files.data, self.recipe, self.machine)
        return next(sets).source

    @property
    def _starts(self) -> list[Path]:
        return self.task.starts(self.settings.vision)

    @cached_property
    def _identity(self) -> str:
        """Digest of everything that decides the results, for which alone a state is good."""
        data = [self.files.data / LISTING, self.files.data / ARRAYS]
        files = [*data, self.files.block, *self._starts]
        return identity(self.settings.model_dump(mode="json"), source_digest(*self.code), files)

    def _provenance(self) -> dict[str, object]:
        starts = {f"{file}": sha256(file) for file in self._starts}
        origins = {"starts": starts} if starts else {}
        origins |= {"block": block_facts(self.files.block)} if self.files.block else {}
        return provenance(self.seed, *self.code, run=self.settings.run, **origins)


def complete(training: Training) -> int:
    """Train until the end, or until a signal asks to stop; return 0, or 75 to try again."""
    with stop_asked() as stop:
        try:
            training.run(stop)
        except Interrupted as end:
            log.info("%s", end)
            return os.EX_TEMPFAIL
    return 0
