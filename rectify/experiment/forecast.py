"""How long the jobs on GPUs take that Snakemake plans: each alone, and all on some GPUs."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from rectify.experiment.clock import EVALUATE, RULES, TRAIN, UNCERTAIN, Clock, Time
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.schedule import Length, span
from rectify.experiment.speeds import Basis, Speeds
from rectify.experiment.work import Reader, Subject, Work

GPUS = (1, 4, 8, 16)
HOUR, MINUTE = 3600.0, 60.0
Jobs = Sequence[tuple[str, Mapping[str, str]]]
"""Rule and wildcards of each job."""


class Expected(NamedTuple):
    """A job on GPUs, and how long it takes."""

    rule: str
    words: Mapping[str, str]
    """Its wildcards."""
    time: Time

    @property
    def run(self) -> Run:
        """The run that it trains, or whose model it takes, where there is one."""
        return Run.parse(self.words["run"])

    @property
    def name(self) -> str:
        """What it is of, and its seed."""
        names = [word for key, word in self.words.items() if key != "seed"]
        seed = [f"seed {self.words['seed']}"] if "seed" in self.words else []
        return " ".join([*names, *seed])


@dataclass(frozen=True)
class Together:
    """Some jobs on GPUs.

    Attributes:
        title: Of one of them.
        each: One by one.
    """

    title: str
    each: Sequence[Expected]

    @cached_property
    def timed(self) -> list[Expected]:
        """Those whose time is known, the longest first."""
        known = (one for one in self.each if one.time.seconds is not None)
        return sorted(known, key=lambda one: -one.time.seconds)

    @property
    def bases(self) -> list[Basis]:
        """How their times are known, the most uncertain first, and ``unknown`` last."""
        order = (*UNCERTAIN, "unknown")
        return sorted({one.time.basis for one in self.each}, key=order.index)

    @property
    def is_bound(self) -> bool:
        """Whether some are unknown, or of more than a hundredth of the hours only the least is."""
        counted = [one for one in self.timed if one.time.basis == "counted"]
        return len(self.timed) < len(self.each) or _gpu_hours(counted) > 0.01 * self.gpu_hours

    @property
    def gpu_hours(self) -> float:
        """Of all whose time is known."""
        return _gpu_hours(self.timed)

    def line(self, card: str) -> str:
        """Return their number and hours, for people."""
        count = len(self.each)
        said = f"{count} {self.title}{'s' * (count != 1)}"
        if not self.timed:
            return said
        unknown = count - len(self.timed)
        rest = f", and {unknown} of unknown length" if unknown else ""
        some = "at least" if self.is_bound else "some"
        return f"{said}: {some} {number(self.gpu_hours)} GPU-hours ({card}, {self.bases[0]}){rest}"


def _gpu_hours(jobs: Iterable[Expected]) -> float:
    return sum(one.time.gpus * one.time.seconds for one in jobs) / HOUR


@dataclass(frozen=True)
class Forecast:
    """What all jobs on GPUs take together.

    Attributes:
        each: One by one, in the order of ``RULES``.
        card: What they run on.
        others: Number of the jobs that are no trainings, by their rule.
        gpus: Numbers of GPUs that may share them.
    """

    each: Sequence[Expected]
    card: str
    others: Mapping[str, int]
    gpus: Sequence[int] = GPUS

    @property
    def every(self) -> Together:
        """All."""
        return Together("all", self.each)

    @property
    def trainings(self) -> Together:
        """The trainings."""
        return Together("training", self._of(TRAIN))

    @property
    def evaluations(self) -> Together:
        """The evaluations."""
        return Together("evaluation", self._of(EVALUATE))

    @property
    def further(self) -> Together:
        """All else: features, activations, measured costs."""
        return Together("further job", self._of(*RULES[2:]))

    def _of(self, *rules: str) -> list[Expected]:
        return [one for one in self.each if one.rule in rules]

    def by_rule(self) -> list[Together]:
        """Return the jobs of each rule."""
        return [Together(rule, self._of(rule)) for rule in RULES if self._of(rule)]

    @property
    def without(self) -> Mapping[str, int]:
        """Number of the jobs that take no GPU, by their rule."""
        return {rule: count for rule, count in self.others.items() if rule not in RULES}

    def wall_hours(self, gpus: int) -> float | None:
        """Return how long they take on some GPUs; None where these are too few for one of them.

        The jobs of a run with one seed follow each other, its training first.
        """
        chains: dict[object, list[Length]] = {}
        for number, one in enumerate(self.each):
            if one.time.seconds is not None:
                is_of_run = "run" in one.words
                key = (one.words["run"], one.words["seed"]) if is_of_run else number
                chains.setdefault(key, []).append(Length(one.time.seconds, one.time.gpus))
        seconds = span(chains.values(), gpus)
        return None if seconds is None else seconds / HOUR

    def walls(self) -> str:
        """Return the hours on each number of GPUs, for people."""
        walls = [self.wall_hours(gpus) for gpus in self.gpus]
        hours = " / ".join("-" if hours is None else number(hours) for hours in walls)
        return f"{hours} h on {' / '.join(map(str, self.gpus))} GPU{'s' * (max(self.gpus) > 1)}"

    def line(self) -> str:
        """Return all in one line, for people."""
        parts = (self.trainings, self.evaluations, self.further)
        said = "; ".join(jobs.line(self.card) for jobs in parts if jobs.each)
        if not self.every.timed:
            return said
        return f"{said}; {self.walls()}; the longest {duration(self.every.timed[0].time.seconds)}"


def forecast(
    plan: Plan,
    jobs: Jobs,
    speeds: Speeds,
    card: str,
    count: Callable[[Subject | Reader], Work],
    gpus: Sequence[int] = GPUS,
) -> Forecast:
    """Return what the jobs of a plan take.

    Args:
        plan: Of the configuration.
        jobs: That are still to be run.
        speeds: What is known of GPUs.
        card: A key of its ``cards``.
        count: Returns the work of a model.
        gpus: Numbers of GPUs that may share the jobs.

    Raises:
        ValueError: If there is no such card.
    """
    clock = Clock(plan, speeds, card, count)
    each = [
        Expected(rule, words, clock.time(rule, words))
        for asked in RULES
        for rule, words in jobs
        if rule == asked
    ]
    return Forecast(each, card, Counter(rule for rule, _ in jobs if rule != TRAIN), gpus)


def number(hours: float) -> str:
    """Return hours as people say them."""
    if hours >= 10:
        return f"{hours:,.0f}"
    if hours >= 0.1:
        return f"{hours:.1f}"
    return f"{hours:.1g}" if hours >= 0.001 or hours == 0 else "<0.001"


def duration(*seconds: int | float) -> str:
    """Return the time of a job as people say it; of several jobs the shortest to the longest."""
    (least, unit), (most, longer) = map(_in_unit, (min(seconds), max(seconds)))
    if (least, unit) == (most, longer):
        return f"{most} {longer}"
    return f"{least} to {most} {longer}" if unit == longer else f"{least} {unit} to {most} {longer}"


def _in_unit(seconds: int | float) -> tuple[str, str]:
    if round(seconds / MINUTE) >= 60:
        return number(seconds / HOUR), "h"
    if round(seconds) >= MINUTE:
        return f"{seconds / MINUTE:.0f}", "min"
    return (f"{seconds:.0f}" if seconds >= 1 else "<1"), "s"
