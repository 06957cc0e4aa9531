"""How long the trainings take that Snakemake plans: each alone, and all on some GPUs.

A training's time is that of its items, of testing each epoch, and of the steps that measure GSNR.
Reading items is not in it: a training that waits for its readers takes longer. Where its speed is
given, tests are taken to be as much slower or faster than their model says as its steps are.
"""

import csv
import heapq
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rectify.experiment import grid
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import Basis, Rates, Seconds, Speeds
from rectify.experiment.there import items_of, published
from rectify.experiment.work import Subject, Work, subject
from rectify.tasks.labelled import Labelled

GPUS = (1, 4, 8, 16)
HOUR = 3600.0
TRAIN = "train"  # the rule
TIME_IT = "Give its items_per_second by --speed."
TIMED = "bfloat16"
"""The precision of the steps that were timed, which were of images."""
Jobs = Sequence[tuple[str, Mapping[str, str]]]
"""Rule and wildcards of each job."""


class Expected(NamedTuple):
    """One training: its time on the GPUs that it is given, and how that is known."""

    run: Run
    seed: int
    seconds: float | None
    basis: Basis
    note: str = ""
    """Why the time is unknown, if it is."""
    work: Work | None = None

    @property
    def name(self) -> str:
        """The run and its seed."""
        return f"{self.run.name} seed {self.seed}"


@dataclass(frozen=True)
class Forecast:
    """What all trainings take together."""

    trainings: Sequence[Expected]
    others: Mapping[str, int]
    """Number of the other jobs by their rule."""
    card: str
    gpus: int
    """Of a training."""

    @cached_property
    def timed(self) -> list[Expected]:
        """The trainings whose time is known, the longest first."""
        known = (one for one in self.trainings if one.seconds is not None)
        return sorted(known, key=lambda one: -one.seconds)

    @property
    def is_bound(self) -> bool:
        """Whether of some trainings only what they take at least is known."""
        return any(one.basis == "counted" for one in self.timed)

    @property
    def gpu_hours(self) -> float:
        """Of all trainings whose time is known."""
        return self.gpus * sum(one.seconds for one in self.timed) / HOUR

    def wall_hours(self, gpus: int) -> float | None:
        """Return how long they take on some GPUs; None where these are too few for one of them."""
        places = gpus // self.gpus
        return span([one.seconds for one in self.timed], places) / HOUR if places else None

    def line(self) -> str:
        """Return the trainings in one line, for people."""
        count = len(self.trainings)
        said = f"{count} training{'s' * (count != 1)}"
        if not self.timed:
            return said
        longest = self.timed[0]
        unknown = count - len(self.timed)
        rest = f", and {unknown} of unknown length" if unknown else ""
        some = "at least" if self.is_bound else "some"
        walls = [self.wall_hours(gpus) for gpus in GPUS]
        hours = " / ".join("-" if hours is None else number(hours) for hours in walls)
        return (
            f"{said}: {some} {number(self.gpu_hours)} GPU-hours ({self.how}){rest}; {hours} h on "
            f"{' / '.join(map(str, GPUS))} GPUs; the longest {number(longest.seconds / HOUR)} h"
        )

    @property
    def how(self) -> str:
        """How the times are known: the card, and the most uncertain of what they come from."""
        order = ("counted", "stated", "scaled", "measured", "given", "own run")
        bases = {one.basis for one in self.timed}
        return f"{self.card}, {next(name for name in order if name in bases)}"


def span(seconds: Iterable[float], places: int) -> float:
    """Return when the last of some jobs ends, the longest started first, each where it is free.

    That is at most 4/3 - 1/(3 places) times the shortest that is possible (Graham, 1969).

    Args:
        seconds: Of each job.
        places: Jobs that run at a time.
    """
    free = [0.0] * places
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


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
    trained = [words for rule, words in jobs if rule == TRAIN]
    trainings = [clock.expected(Run.parse(one["run"]), int(one["seed"])) for one in trained]
    others = Counter(rule for rule, _ in jobs if rule != TRAIN)
    return Forecast(trainings, others, card, plan.config.processes)


class Clock:
    """Tells how long a training takes; arguments as in `forecast`."""

    def __init__(self, plan: Plan, speeds: Speeds, card: str, count: Callable[[Subject], Work]):
        self.plan, self.speeds, self.count = plan, speeds, count
        self.rates, self.card = Rates(speeds, card, count), card
        self._runs: dict[Run, Expected] = {}

    def expected(self, run: Run, seed: int) -> Expected:
        """Return how long a training takes."""
        if run not in self._runs:
            self._runs[run] = self._expected(run)
        return self._runs[run]._replace(seed=seed)

    def _expected(self, run: Run) -> Expected:
        recipe = grid.recipe_of(self.plan.config, run)
        unknown = Expected(run, 0, None, "unknown")
        what = subject(self.plan, run)
        try:
            work = self.count(what)
        except ValueError as error:
            return unknown._replace(note=f"{error}")
        unknown = unknown._replace(work=work)
        items = items_about(self.plan, run.data, "train")
        if items is None:
            return unknown._replace(note=f"the items of {run.data} are counted by prepare_data")
        modelled, note = self._modelled(run, work)
        speed, basis = self._said(run, what)
        if speed is None and modelled is None:
            return unknown._replace(note=note)
        train = test = 0.0
        if modelled is not None:
            train, test = self._epoch(run, modelled, items)
        if speed is not None:
            steps = items // recipe.batch_size
            said = steps * recipe.batch_size * recipe.augment_repeats / speed
            train, test = said, test * said / (train or 1.0)
        else:
            basis = modelled.basis
        return Expected(run, 0, recipe.epochs * (train + test), basis, work=work)

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
        tested = items_about(self.plan, run.data, "test") or 0
        inputs = tested * config.data[run.data].views_of(tested) / gpus
        size = float(recipe.batch_size)
        return train, inputs / size * modelled.of_pass(size).test

    def _modelled(self, run: Run, work: Work) -> tuple[Seconds | None, str]:
        """Return the time by FLOPs; or None, and why."""
        config, recipe = self.plan.config, grid.recipe_of(self.plan.config, run)
        entry = config.data[run.data]
        if config.device_gpus == 0:
            return None, "device_gpus is 0, and no CPU was timed"
        if work.flops is None:
            return None, f"{entry.task} has no `example`, whose work could be counted. {TIME_IT}"
        if isinstance(entry, Labelled) and recipe.precision == TIMED:
            return self.rates.scaled(work.flops, recipe.compile), ""
        how = (recipe.precision, recipe.compile)
        modelled = self.rates.counted(work.flops, work.launches, *how)
        return modelled, f"{self.card} has no {recipe.precision} in cards. Give it by --speed."

    def _said(self, run: Run, what: Subject) -> tuple[float | None, Basis]:
        """Return items per second of a training, as one was here, or as the user says."""
        own = self._own.get((run.data, what.key))
        if own is not None:
            return own, "own run"
        for pattern, speed in self.speeds.items_per_second.items():
            if fnmatchcase(run.name, pattern):
                return speed * self.plan.config.processes, "given"
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


def items_about(plan: Plan, name: str, split: str) -> int | None:
    """Return the items of ``train`` or ``test``, within a few where only a share of them is kept.

    None where only the preparation of the set can tell.
    """
    exact = items_of(plan, name, split)
    if exact is not None:
        return exact
    entry = plan.config.data[name]
    complete = published(entry) if entry.full else {}
    count = complete.get((split,))
    if count is None and ("train", "test") in complete:
        default = inspect.signature(entry.reader_module.read).parameters["train_share"].default
        share = entry.sizes.get("train_share", default)
        count = complete["train", "test"] * (share if split == "train" else 1 - share)
    fraction = getattr(entry, "fraction", 1.0) if split == "train" else 1.0
    return None if count is None else round(count * fraction)


def number(value: float) -> str:
    """Return hours as people say them."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
