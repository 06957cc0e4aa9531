"""How long trainings and evaluations take that Snakemake plans: each alone, and all on some GPUs.

A training's time is that of its items, of testing each epoch, and of the steps that measure GSNR;
an evaluation's that of all its test sets, in all views and with all candidates. Reading items is
not in it: who waits for readers takes longer. Where a training's speed is given, its tests are
taken to be as much slower or faster than their model says as its steps are.
"""

import csv
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rectify.experiment import grid
from rectify.experiment.items import inputs_scored, inputs_tested, items_about
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.schedule import Length, span
from rectify.experiment.speeds import Basis, Rates, Seconds, Speeds
from rectify.experiment.work import Subject, Work, subject
from rectify.tasks.labelled import Labelled

GPUS = (1, 4, 8, 16)
HOUR = 3600.0
TRAIN, EVALUATE = "train", "evaluate"  # the rules
TITLES = {TRAIN: "training", EVALUATE: "evaluation"}
UNCERTAIN = ("counted", "stated", "scaled", "measured", "given", "own run")
"""Ways in which a time is known, the most uncertain first."""
TIME_IT = "Give its items_per_second by --speed."
TIMED = "bfloat16"
"""The precision of the steps that were timed, which were of images."""
Jobs = Sequence[tuple[str, Mapping[str, str]]]
"""Rule and wildcards of each job."""


class Expected(NamedTuple):
    """A training or an evaluation: its time on the GPUs that it is given, and how that is known."""

    run: Run
    seed: int
    seconds: float | None
    basis: Basis
    note: str = ""
    """Why the time is unknown, if it is."""
    work: Work | None = None
    gpus: int = 1

    @property
    def name(self) -> str:
        """The run and its seed."""
        return f"{self.run.name} seed {self.seed}"


@dataclass(frozen=True)
class Together:
    """All trainings, or all evaluations.

    Attributes:
        rule: Theirs.
        each: One by one.
        card: What they run on.
    """

    rule: str
    each: Sequence[Expected]
    card: str

    @cached_property
    def timed(self) -> list[Expected]:
        """Those whose time is known, the longest first."""
        known = (one for one in self.each if one.seconds is not None)
        return sorted(known, key=lambda one: -one.seconds)

    @property
    def is_bound(self) -> bool:
        """Whether of some of them only what they take at least is known."""
        return any(one.basis == "counted" for one in self.timed)

    @property
    def gpu_hours(self) -> float:
        """Of all whose time is known."""
        return sum(one.gpus * one.seconds for one in self.timed) / HOUR

    def line(self) -> str:
        """Return their number and hours, for people."""
        count = len(self.each)
        said = f"{count} {TITLES[self.rule]}{'s' * (count != 1)}"
        if not self.timed:
            return said
        unknown = count - len(self.timed)
        rest = f", and {unknown} of unknown length" if unknown else ""
        some = "at least" if self.is_bound else "some"
        bases = {one.basis for one in self.timed}
        how = next(name for name in UNCERTAIN if name in bases)
        return f"{said}: {some} {number(self.gpu_hours)} GPU-hours ({self.card}, {how}){rest}"


@dataclass(frozen=True)
class Forecast:
    """What all trainings and evaluations take together."""

    trainings: Together
    evaluations: Together
    others: Mapping[str, int]
    """Number of the jobs that are no trainings, by their rule."""

    @property
    def every(self) -> tuple[Together, Together]:
        """Trainings and evaluations."""
        return self.trainings, self.evaluations

    @property
    def longest(self) -> tuple[str, Expected] | None:
        """Rule and time of the longest job; None where none is known."""
        ends = [(jobs.rule, jobs.timed[0]) for jobs in self.every if jobs.timed]
        return max(ends, key=lambda end: end[1].seconds, default=None)

    def wall_hours(self, gpus: int) -> float | None:
        """Return how long they take on some GPUs; None where these are too few for one of them.

        An evaluation follows its training.
        """
        chains: dict[str, list[Length]] = {}
        for jobs in self.every:
            for one in jobs.timed:
                chains.setdefault(one.name, []).append(Length(one.seconds, one.gpus))
        seconds = span(chains.values(), gpus)
        return None if seconds is None else seconds / HOUR

    def line(self) -> str:
        """Return all in one line, for people."""
        said = "; ".join(jobs.line() for jobs in self.every if jobs.each or jobs.rule == TRAIN)
        if self.longest is None:
            return said
        walls = [self.wall_hours(gpus) for gpus in GPUS]
        hours = " / ".join("-" if hours is None else number(hours) for hours in walls)
        return (
            f"{said}; {hours} h on {' / '.join(map(str, GPUS))} GPUs; the longest "
            f"{number(self.longest[1].seconds / HOUR)} h"
        )


def forecast(
    plan: Plan, jobs: Jobs, speeds: Speeds, card: str, count: Callable[[Subject], Work]
) -> Forecast:
    """Return what the jobs of a plan take.

    Args:
        plan: Of the configuration.
        jobs: That are still to be run.
        speeds: What is known of GPUs.
        card: A key of its ``cards``.
        count: Returns the work of a subject.

    Raises:
        ValueError: If there is no such card.
    """
    clock = Clock(plan, speeds, card, count)
    ways = {TRAIN: clock.trained, EVALUATE: clock.evaluated}
    expected: dict[str, list[Expected]] = {rule: [] for rule in ways}
    for rule, words in jobs:
        if rule in ways:
            expected[rule].append(ways[rule](Run.parse(words["run"]), int(words["seed"])))
    every = (Together(rule, each, card) for rule, each in expected.items())
    return Forecast(*every, Counter(rule for rule, _ in jobs if rule != TRAIN))


class Clock:
    """Tells how long a training takes; arguments as in `forecast`."""

    def __init__(self, plan: Plan, speeds: Speeds, card: str, count: Callable[[Subject], Work]):
        self.plan, self.speeds, self.count = plan, speeds, count
        self.rates, self.card = Rates(speeds, card, count), card
        self.trained, self.evaluated = map(_of_each_seed, (self._trained, self._evaluated))

    def _trained(self, run: Run) -> Expected:
        """Return how long a training takes."""
        recipe, what = grid.recipe_of(self.plan.config, run), subject(self.plan, run)
        unknown = Expected(run, 0, None, "unknown", gpus=self.plan.config.processes)
        try:
            work = self.count(what)
        except ValueError as error:
            return unknown._replace(note=f"{error}")
        unknown = unknown._replace(work=work)
        items = items_about(self.plan, run.data, "train")
        if items is None:
            return unknown._replace(note=f"the items of {run.data} are counted by prepare_data")
        modelled, note = self._modelled(run, work, recipe.compile)
        said, basis = self._said(run, what, items)
        if modelled is None and said is None:
            return unknown._replace(note=note)
        train = test = 0.0
        if modelled is not None:
            train, test = self._epoch(run, modelled, items)
        if said is None:
            basis = modelled.basis
        else:
            train, test = said, test * said / (train or 1.0)
        return unknown._replace(seconds=recipe.epochs * (train + test), basis=basis)

    def _evaluated(self, run: Run) -> Expected:
        """Return how long an evaluation takes: eager, on one GPU, and on all test sets."""
        recipe, what = grid.recipe_of(self.plan.config, run), subject(self.plan, run)
        unknown = Expected(run, 0, None, "unknown")
        try:
            work, inputs = self.count(what), inputs_scored(self.plan, run.data)
        except ValueError as error:
            return unknown._replace(note=f"{error}")
        modelled, note = self._modelled(run, work, is_compiled=False)
        if modelled is None:
            return unknown._replace(note=note)
        size = float(recipe.batch_size)
        seconds, basis = inputs / size * modelled.of_pass(size).test, modelled.basis
        items = items_about(self.plan, run.data, "train") or 0
        if items >= recipe.batch_size:
            said, known_by = self._said(run, what, items)
            train, _ = self._epoch(run, self._modelled(run, work, recipe.compile)[0], items)
            if said is not None:
                seconds, basis = seconds * said / train, known_by
        return unknown._replace(seconds=seconds, basis=basis)

    def _epoch(self, run: Run, modelled: Seconds, items: int) -> tuple[float, float]:
        """Return the seconds of an epoch: of its steps, and of its test."""
        config, recipe = self.plan.config, grid.recipe_of(self.plan.config, run)
        steps, gpus = items // recipe.batch_size, config.processes
        how = "compiled" if recipe.compile else "eager"
        ratio = getattr(getattr(self.speeds.measured_step, how), config.gsnr.mode)
        samples = recipe.batch_size * recipe.augment_repeats
        a_pass = modelled.of_pass(samples / (recipe.accumulate * gpus))  # on each of the GPUs
        measured = min(config.gsnr.batches, steps) * (ratio - 1)
        train = recipe.accumulate * (steps * a_pass.training + measured * a_pass.trunk)
        inputs, size = (inputs_tested(self.plan, run.data) or 0) / gpus, float(recipe.batch_size)
        return train, inputs / size * modelled.of_pass(size).test

    def _modelled(self, run: Run, work: Work, is_compiled: bool) -> tuple[Seconds | None, str]:
        """Return the time by FLOPs; or None, and why."""
        config, recipe = self.plan.config, grid.recipe_of(self.plan.config, run)
        entry = config.data[run.data]
        if config.device_gpus == 0:
            return None, "device_gpus is 0, and no CPU was timed"
        if work.flops is None:
            return None, f"{entry.task} has no `example`, whose work could be counted. {TIME_IT}"
        if isinstance(entry, Labelled) and recipe.precision == TIMED:
            return self.rates.scaled(work.flops, is_compiled), ""
        how = (recipe.precision, is_compiled)
        modelled = self.rates.counted(work.flops, work.launches, *how)
        return modelled, f"{self.card} has no {recipe.precision} in cards. Give it by --speed."

    def _said(self, run: Run, what: Subject, items: int) -> tuple[float | None, Basis]:
        """Return the seconds of the steps of an epoch, as they took here, or as the user says."""
        recipe = grid.recipe_of(self.plan.config, run)
        seen = items // recipe.batch_size * recipe.batch_size * recipe.augment_repeats
        own = self._own.get((run.data, what.key))
        if own is not None:
            return seen / own, "own run"
        for pattern, speed in self.speeds.items_per_second.items():
            if fnmatchcase(run.name, pattern):
                return seen / (speed * self.plan.config.processes), "given"
        return None, "unknown"

    @cached_property
    def _own(self) -> dict[tuple[str, str], float]:
        """Items per second of finished trainings, by what their speed depends on."""
        speeds: dict[tuple[str, str], float] = {}
        for run in grid.all_runs(self.plan.config):
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


def _of_each_seed(of_run: Callable[[Run], Expected]) -> Callable[[Run, int], Expected]:
    """Return a function that asks once for all seeds of a run."""
    known = functools.cache(of_run)
    return lambda run, seed: known(run)._replace(seed=seed)


def number(value: float) -> str:
    """Return hours as people say them."""
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.1g}"
