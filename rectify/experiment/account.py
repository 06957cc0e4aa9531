"""What a plan takes, for people and for programs: jobs, hours, bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rectify.arguments import CONFIGS
from rectify.experiment.forecast import (
    HOUR,
    Expected,
    Forecast,
    Together,
    duration,
    number,
)
from rectify.experiment.storage import Storage

NAMES = ("data", "vision", "variant", "rule")
NUMBERS = ("each", "GPU-hours")
KIND_HEADS = (*NAMES[:3], "trainings", *NUMBERS, "evaluations", *NUMBERS, "known by")
RULE_HEADS = (NAMES[3], "jobs", *NUMBERS, "known by")
KEPT = {
    **{name: name for name in ("models", "predictions", "layers", "features")},
    "last_states": "last states (until Snakemake ends)",
    "running_states": "states of a running training",
}
MEANING = {
    "own run": "an earlier training in these results",
    "given": "--speed",
    "measured": "a step of the same FLOPs was timed on this card",
    "scaled": "by FLOPs, from other steps that were timed on this card",
    "counted": "what it takes at least: products at the best share of a limit that was seen, and "
    "starting operators; reading items and weights, padding and drawing points come on top",
    "stated": "by FLOPs, from steps on another card, and by what the makers state",
}


@dataclass(frozen=True)
class Account:
    """All that is said of a plan."""

    forecast: Forecast
    storage: Storage
    configs: Sequence[Path] = CONFIGS[:1]
    """Files of the configuration."""

    def text(self) -> str:
        """Return a line for each kind of run, one for each rule, and then the sums."""
        every = self.forecast.every
        kinds = [_kind_row(*kind) for kind in self._kinds().items()]
        rules = [_rule_row(jobs) for jobs in (*self.forecast.by_rule(), every)]
        tables = [(KIND_HEADS, kinds), (RULE_HEADS, rules if every.each else [])]
        lines = [line for heads, rows in tables if rows for line in (*_aligned(heads, rows), "")]
        if every.timed:
            longest, some = every.timed[0], "at least" if every.is_bound else "some"
            lines.append(f"time on {self.forecast.card}: {some} {self.forecast.walls()}")
            taken = duration(longest.time.seconds)
            lines.append(f"longest job: {longest.rule} {longest.name}, {taken}")
        others = ", ".join(f"{name} {count}" for name, count in self.forecast.without.items())
        lines.append(f"other jobs, of which no hours are known: {others or 'none'}")
        kept = {KEPT[name]: value for name, value in self._sizes.items() if value} or {"": 0}
        stored = ", ".join(f"{name} {size(value)}".strip() for name, value in kept.items())
        lines.append(f"storage: {self._least}{stored}")
        lines += [f"{name}: {what}" for name, what in MEANING.items() if name in every.bases]
        notes = sorted({one.time.note for one in every.each if one.time.note})
        lines += [f"unknown: {note}" for note in notes]
        steps = (*self.forecast.trainings.each, *self.forecast.evaluations.each)
        counted = dict.fromkeys(one.run.data for one in steps if one.time.basis == "counted")
        return "\n".join([*lines, *([self._advice(counted)] if counted else [])])

    def line(self) -> str:
        """Return the jobs that take GPUs in one line, and what their results take."""
        stored = f"{self._least}{size(sum(self.storage))} of results and states"
        return f"{self.forecast.line()}; {stored}"

    def record(self) -> dict[str, object]:
        """Return the same, ready for JSON."""
        forecast = self.forecast
        trainings, evaluations, every = forecast.trainings, forecast.evaluations, forecast.every
        return {
            "trainings": len(trainings.each),
            "trainings_timed": len(trainings.timed),
            "evaluations": len(evaluations.each),
            "evaluations_timed": len(evaluations.timed),
            "other_jobs": dict(forecast.others),
            "card": forecast.card,
            "gpus_of_a_training": max((one.time.gpus for one in trainings.each), default=1),
            "gpu_hours": trainings.gpu_hours,
            "gpu_hours_at_least": trainings.is_bound,
            "evaluation_gpu_hours": evaluations.gpu_hours,
            "evaluation_gpu_hours_at_least": evaluations.is_bound,
            "rules": {jobs.title: _sums(jobs) for jobs in forecast.by_rule()},
            "every": _sums(every),
            "wall_hours": {f"{gpus}": forecast.wall_hours(gpus) for gpus in forecast.gpus},
            "longest": next(map(_record, every.timed), None),
            "bytes": self._sizes,
            "runs": [_record(one) for one in trainings.each],
            "evaluated_runs": [_record(one) for one in evaluations.each],
            "further_jobs": [_record(one) for one in forecast.further.each],
        }

    @property
    def _least(self) -> str:
        """Say so where the models of some trainings are not known yet."""
        unknown = any(one.time.work is None for one in self.forecast.trainings.each)
        return "at least " if unknown else ""

    @property
    def _sizes(self) -> Mapping[str, int]:
        return self.storage._asdict()

    def _kinds(self) -> dict[tuple[str, str, str], list[Together]]:
        """Return the trainings and the evaluations of each kind of run."""
        kinds: dict[tuple[str, str, str], tuple[list[Expected], ...]] = {}
        both = self.forecast.trainings, self.forecast.evaluations
        for place, jobs in enumerate(both):
            for one in jobs.each:
                run = one.run
                kind = run.data, run.vision, run.variant
                kinds.setdefault(kind, ([], []))[place].append(one)
        return {kind: [*map(Together, ("", ""), parts)] for kind, parts in kinds.items()}

    def _advice(self, data: Iterable[str]) -> str:
        """Return what to call on a GPU, so that nothing is counted any more."""
        words = [f"'{name}_*'" for name in data]
        if len(self.configs) > 1 or self.configs[0] not in CONFIGS:
            words += ["--config", *map(str, self.configs)]
        return (
            f"counted is not timed: `rectify speeds {' '.join(words)} > speeds.yaml` on such a GPU "
            "does, then add --speed speeds.yaml"
        )


def size(count: int) -> str:
    """Return bytes as people read them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _kind_row(names: Sequence[str], group: Sequence[Together]) -> tuple[str, ...]:
    both = Together("", [one for jobs in group for one in jobs.each])
    return (*names, *(cell for jobs in group for cell in _cells(jobs)), ", ".join(both.bases))


def _rule_row(jobs: Together) -> tuple[str, ...]:
    return (jobs.title, *_cells(jobs), ", ".join(jobs.bases))


def _cells(jobs: Together) -> tuple[str, str, str]:
    """Return number, time of the shortest and the longest, and GPU-hours."""
    if not jobs.timed:
        return f"{len(jobs.each)}", "-", "-"
    each = duration(*(one.time.seconds for one in jobs.timed))
    return f"{len(jobs.each)}", each, number(jobs.gpu_hours)


def _sums(jobs: Together) -> dict[str, object]:
    """Return number and GPU-hours of some jobs, ready for JSON."""
    return {
        "jobs": len(jobs.each),
        "timed": len(jobs.timed),
        "gpu_hours": jobs.gpu_hours,
        "gpu_hours_at_least": jobs.is_bound,
    }


def _record(one: Expected) -> dict[str, object]:
    """Return a job, ready for JSON."""
    hours = None if one.time.seconds is None else one.time.seconds / HOUR
    words = {name: int(word) if name == "seed" else word for name, word in one.words.items()}
    known = {"hours": hours, "known_by": one.time.basis, "note": one.time.note}
    return {"rule": one.rule, **words, **known}


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    *_, names = (place for place, head in enumerate(heads) if head in NAMES)
    return [
        "  ".join(
            text.ljust(width) if place <= names else text.rjust(width)
            for place, (text, width) in enumerate(zip(row[:-1], widths, strict=False))
        )
        + f"  {row[-1]}"
        for row in (heads, *rows)
    ]
