"""How long a job on GPUs takes: a training, and whatever else of the workflow computes on one.

A training's time is that of its items, of testing each epoch, and of the steps that measure GSNR;
an evaluation's that of all its test sets, in all views and with all candidates. Features and
activations take a pass over their items, in float32; a measured cost the steps that are timed.
Reading is in none of them, neither of items nor of weights: who waits for readers or disks takes
longer. Where a training's speed is given, its tests are taken to be as much slower or faster than
their model says as its steps are.
"""

import csv
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rectify.controls import RECTIFIED
from rectify.experiment import grid
from rectify.experiment.items import (
    Unknown,
    inputs_scored,
    inputs_tested,
    items_about,
    items_masked,
    items_of,
)
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import Basis, Rates, Seconds, Speeds
from rectify.experiment.work import Reader, Subject, Work, alone, check_made, reader, subject
from rectify.tasks.labelled import Labelled

TRAIN, EVALUATE = "train", "evaluate"
RULES = (
    *(TRAIN, EVALUATE, "filtering", "vision_features"),
    *("pretrained_features", "language_features", "measure"),
)
"""Of jobs on GPUs, each a method of `Clock`; jobs of one run follow each other in this order."""
UNCERTAIN: tuple[Basis, ...] = ("counted", "stated", "scaled", "measured", "given", "own run")
"""Ways in which a time is known, the most uncertain first."""
NO_GPU = "device_gpus is 0, and no CPU was timed"
TIME_IT = "Give its items_per_second by --speed."
TIMED, FULL = "bfloat16", "float32"
"""The precision of the steps that were timed, which were of images; that of features and maps."""
MASKED_BATCH = 64
"""Items that pass a model together while activations are compared with masks."""
COST_STEPS = 6
"""Of each kind when a cost is measured: one that is not timed, and five that are."""


class Time(NamedTuple):
    """How long a job takes on the GPUs that it is given, and how that is known."""

    seconds: float | None
    basis: Basis
    note: str = ""
    """Why the time is unknown, if it is."""
    work: Work | None = None
    """Of a training."""
    gpus: int = 1


class Clock:
    """Tells how long a job takes.

    Args:
        plan: Of the configuration.
        speeds: What is known of GPUs.
        card: A key of its ``cards``.
        count: Returns the work of a model.

    Raises:
        ValueError: If there is no such card.
    """

    def __init__(
        self, plan: Plan, speeds: Speeds, card: str, count: Callable[[Subject | Reader], Work]
    ):
        self.plan, self.config, self.speeds = plan, plan.config, speeds
        self.rates, self.card, self.count = Rates(speeds, card, count), card, count
        self._times = functools.cache(self._time)

    def time(self, rule: str, words: Mapping[str, str]) -> Time:
        """Return how long a job takes.

        Args:
            rule: One of ``RULES``.
            words: Its wildcards; with each seed it takes as long.
        """
        return self._times(rule, *((name, word) for name, word in words.items() if name != "seed"))

    def _time(self, rule: str, *words: tuple[str, str]) -> Time:
        named, work = dict(words), None
        gpus = self.config.processes if rule == TRAIN else 1
        try:
            if rule == TRAIN:
                work = self._work(Run.parse(named["run"]))
            seconds, basis = getattr(self, rule)(**named)
        except Unknown as error:
            note = f"{error}" if self.config.device_gpus else NO_GPU
            return Time(None, "unknown", note, work, gpus)
        return Time(seconds, basis, "", work, gpus)

    def train(self, run: str) -> tuple[float, Basis]:
        """Return how long a training takes."""
        trained = Run.parse(run)
        work, recipe = self._work(trained), grid.recipe_of(self.config, trained)
        items = items_about(self.plan, trained.data, "train")
        if items is None:
            raise Unknown(f"the items of {trained.data} are counted by prepare_data")
        said = self._said(trained, items)
        try:
            modelled = self._modelled(trained, work, recipe.compile)
        except Unknown:
            if said is None:
                raise
            return recipe.epochs * said[0], said[1]
        train, test = self._epoch(trained, modelled, items)
        basis = modelled.basis
        if said is not None:
            (train, basis), test = said, test * said[0] / (train or 1.0)
        return recipe.epochs * (train + test), basis

    def evaluate(self, run: str) -> tuple[float, Basis]:
        """Return how long an evaluation takes: eager, on one GPU, and on all test sets."""
        trained = Run.parse(run)
        work, recipe = self._work(trained), grid.recipe_of(self.config, trained)
        inputs = inputs_scored(self.plan, trained.data)
        modelled = self._modelled(trained, work, is_compiled=False)
        seconds, basis = _passed(inputs, recipe.batch_size, modelled), modelled.basis
        items = items_about(self.plan, trained.data, "train") or 0
        said = self._said(trained, items) if items >= recipe.batch_size else None
        if said is not None:
            stepping = self._modelled(trained, work, recipe.compile)
            train, _ = self._epoch(trained, stepping, items)
            seconds, basis = seconds * said[0] / train, said[1]
        return seconds, basis

    def filtering(self, run: str) -> tuple[float, Basis]:
        """Return how long it takes to compare activations of a run's model with masks."""
        trained = Run.parse(run)
        modelled = self._modelled(trained, self._work(trained), precision=FULL)
        items = items_masked(self.plan, trained.data)
        return _passed(items, MASKED_BATCH, modelled), modelled.basis

    def vision_features(self, pairs: str, run: str) -> tuple[float, Basis]:
        """Return how long the features of a run's model take."""
        trained = Run.parse(run)
        modelled = self._modelled(trained, self._work(trained), precision=FULL)
        return self._featured(pairs, modelled)

    def pretrained_features(self, pairs: str, vision: str) -> tuple[float, Basis]:
        """Return how long the features of a published model of images take."""
        model = self.config.visions[vision]
        work = self._counted(alone(model.timm, model.overrides))
        return self._featured(pairs, self._at_least(work))

    def language_features(self, pairs: str, language: str) -> tuple[float, Basis]:
        """Return how long the features of all layers of a language model take."""
        work = self._counted(reader(self.plan, language))
        return self._featured(pairs, self._at_least(work))

    def measure(self, vision: str, language: str) -> tuple[float, Basis]:
        """Return how long it takes to time the steps of a model, in each variant."""
        table = grid.cost_table(self.config)
        plain, last = Run(table.data, vision), self.config.languages[language].layers - 1
        layered = replace(plain, language=language, layer=last, position="end")
        runs = [plain, *(replace(layered, variant=name) for name in RECTIFIED)]
        every = [self._modelled(plain, self._work(run)) for run in runs]
        steps = [modelled.of_pass(table.batch_size) for modelled in every]
        seconds = COST_STEPS * sum(step.training + step.test for step in steps)
        return seconds, min((modelled.basis for modelled in every), key=UNCERTAIN.index)

    def _featured(self, pairs: str, modelled: Seconds) -> tuple[float, Basis]:
        """Return how long features of all pairs take."""
        items = items_of(self.plan, pairs, "pairs")
        if items is None:
            raise Unknown(f"the items of {pairs} are counted by prepare_data")
        return _passed(items, self.plan.similarity("batch_size"), modelled), modelled.basis

    def _epoch(self, run: Run, modelled: Seconds, items: int) -> tuple[float, float]:
        """Return the seconds of an epoch: of its steps, and of its test."""
        config, recipe = self.config, grid.recipe_of(self.config, run)
        steps, gpus = items // recipe.batch_size, config.processes
        how = "compiled" if recipe.compile else "eager"
        ratio = getattr(getattr(self.speeds.measured_step, how), config.gsnr.mode)
        samples = recipe.batch_size * recipe.augment_repeats
        a_pass = modelled.of_pass(samples / (recipe.accumulate * gpus))  # on each of the GPUs
        measured = min(config.gsnr.batches, steps) * (ratio - 1)
        train = recipe.accumulate * (steps * a_pass.training + measured * a_pass.trunk)
        inputs = (inputs_tested(self.plan, run.data) or 0) / gpus
        return train, _passed(inputs, recipe.batch_size, modelled)

    def _modelled(
        self, run: Run, work: Work, is_compiled: bool = False, precision: str | None = None
    ) -> Seconds:
        """Return the time of a model by FLOPs, in the precision of the run unless another is given.

        Args:
            run: Says what its items are.
            work: Of the model.
            is_compiled: Whether it is compiled.
            precision: Of its passes.
        """
        entry = self.config.data[run.data]
        precision = precision or grid.recipe_of(self.config, run).precision
        if work.flops is None:
            raise Unknown(f"{entry.task} has no `example`, whose work could be counted. {TIME_IT}")
        if isinstance(entry, Labelled) and precision == TIMED:
            return self._on_gpu.scaled(work.flops, is_compiled)
        return self._at_least(work, is_compiled, precision)

    def _at_least(self, work: Work, is_compiled: bool = False, precision: str = FULL) -> Seconds:
        """Return what a model takes at least."""
        how = (precision, is_compiled)
        modelled = self._on_gpu.counted(work.flops, work.launches, *how)
        if modelled is None:
            raise Unknown(f"{self.card} has no {precision} in cards. Give it by --speed.")
        return modelled

    @property
    def _on_gpu(self) -> Rates:
        if self.config.device_gpus == 0:
            raise Unknown(NO_GPU)
        return self.rates

    def _work(self, run: Run) -> Work:
        check_made(self.plan, run.language)
        return self._counted(subject(self.plan, run))

    def _counted(self, what: Subject | Reader) -> Work:
        """Return the work of a model that can be built before there are weights."""
        try:
            return self.count(what)
        except ValueError as error:
            raise Unknown(f"{error}") from None

    def _said(self, run: Run, items: int) -> tuple[float, Basis] | None:
        """Return the seconds of the steps of an epoch, as they took here, or as the user says."""
        recipe = grid.recipe_of(self.config, run)
        seen = items // recipe.batch_size * recipe.batch_size * recipe.augment_repeats
        own = self._own.get((run.data, subject(self.plan, run).key))
        if own is not None:
            return seen / own, "own run"
        for pattern, speed in self.speeds.items_per_second.items():
            if fnmatchcase(run.name, pattern):
                return seen / (speed * self.config.processes), "given"
        return None

    @cached_property
    def _own(self) -> dict[tuple[str, str], float]:
        """Items per second of finished trainings, by what their speed depends on."""
        speeds: dict[tuple[str, str], float] = {}
        for run in grid.all_runs(self.config):
            place = Path(self.plan.results) / "runs" / run.name
            for history in sorted(place.glob("seed-*/history.csv"))[:1]:
                key = (run.data, subject(self.plan, run).key)
                if key not in speeds:
                    speeds[key] = own_speed(history)
        return speeds


def own_speed(history: Path) -> float:
    """Return the items per second of a training, the median over its epochs but the first.

    The first one warms up, and is taken only where there is no other.

    Raises:
        ValueError: If the file has none.
    """
    with history.open(encoding="utf-8", newline="") as file:
        speeds = [
            float(row["value"])
            for row in csv.DictReader(file)
            if row["metric"] == "items_per_second"
        ]
    if not speeds:
        raise ValueError(
            f"{history}: must have items_per_second of each epoch, got none. Train the run again."
        )
    return median(speeds[1:] or speeds)


def _passed(inputs: int | float, size: int, modelled: Seconds) -> float:
    """Return the seconds of so many inputs that pass a model, some at a time."""
    return inputs / size * modelled.of_pass(size).test
