"""What a plan takes, for people and for programs: trainings, evaluations, hours, bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rectify.arguments import CONFIGS
from rectify.experiment.forecast import GPUS, HOUR, TRAIN, Expected, Forecast, Together, number
from rectify.experiment.storage import Storage

HEADS = (
    *("data", "vision", "variant", "trainings", "hours each", "GPU-hours"),
    *("evaluations", "hours each", "GPU-hours", "known by"),
)
MEANING = {
    "own run": "an earlier training in these results",
    "given": "--speed",
    "measured": "a step of the same FLOPs was timed on this card",
    "scaled": "by FLOPs, from other steps that were timed on this card",
    "counted": "what it takes at least: products at the best share of a limit that was seen, and "
    "starting operators; reading, padding and drawing points come on top",
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
        """Return a line for each kind of run, and then the sums."""
        groups = self._groups()
        rows = [HEADS, *(self._row(names, group) for names, group in groups.items())]
        widths = [max(len(row[place]) for row in rows) for place in range(len(HEADS))]
        lines = [_aligned(row, widths) for row in rows] if groups else []
        others = ", ".join(f"{name} {count}" for name, count in self.forecast.others.items())
        lines.append(f"{self.forecast.line()}; {sum(self.forecast.others.values())} other jobs")
        if others:
            lines.append(f"other jobs: {others}")
        if self.forecast.longest is not None:
            rule, longest = self.forecast.longest
            lines.append(f"longest: {'' if rule == TRAIN else f'{rule} '}{longest.name}")
        kinds = (f"{name.replace('_', ' ')} {size(value)}" for name, value in self._sizes.items())
        lines.append(f"storage: {', '.join(kinds)}")
        every = [one for jobs in self.forecast.every for one in jobs.each]
        bases = {one.basis for one in every}
        lines += [f"{name}: {what}" for name, what in MEANING.items() if name in bases]
        lines += [f"unknown: {note}" for note in sorted({one.note for one in every if one.note})]
        counted = dict.fromkeys(one.run.data for one in every if one.basis == "counted")
        return "\n".join([*lines, *([self._advice(counted)] if counted else [])])

    def line(self) -> str:
        """Return trainings and evaluations in one line, and what their results take."""
        return f"{self.forecast.line()}; {size(sum(self.storage))} of results and states"

    def record(self) -> dict[str, object]:
        """Return the same, ready for JSON."""
        forecast, longest = self.forecast, None
        trainings, evaluations = forecast.every
        if forecast.longest is not None:
            rule, one = forecast.longest
            longest = {"rule": rule, **_record(one)}
        return {
            "trainings": len(trainings.each),
            "trainings_timed": len(trainings.timed),
            "evaluations": len(evaluations.each),
            "evaluations_timed": len(evaluations.timed),
            "other_jobs": dict(forecast.others),
            "card": trainings.card,
            "gpus_of_a_training": max((one.gpus for one in trainings.each), default=1),
            "gpu_hours": trainings.gpu_hours,
            "gpu_hours_at_least": trainings.is_bound,
            "evaluation_gpu_hours": evaluations.gpu_hours,
            "evaluation_gpu_hours_at_least": evaluations.is_bound,
            "wall_hours": {f"{gpus}": forecast.wall_hours(gpus) for gpus in GPUS},
            "longest": longest,
            "bytes": self._sizes,
            "runs": [_record(one) for one in trainings.each],
            "evaluated_runs": [_record(one) for one in evaluations.each],
        }

    @property
    def _sizes(self) -> Mapping[str, int]:
        return self.storage._asdict()

    def _groups(self) -> dict[tuple[str, str, str], list[Together]]:
        """Return the trainings and the evaluations of each kind of run."""
        every = self.forecast.every
        kinds = dict.fromkeys(_kind(one) for jobs in every for one in jobs.each)
        return {
            kind: [
                replace(jobs, each=[one for one in jobs.each if _kind(one) == kind])
                for jobs in every
            ]
            for kind in kinds
        }

    def _row(self, names: Sequence[str], group: Sequence[Together]) -> tuple[str, ...]:
        bases = ", ".join(dict.fromkeys(one.basis for jobs in group for one in jobs.each))
        return (*names, *(cell for jobs in group for cell in _cells(jobs)), bases)

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


def _kind(one: Expected) -> tuple[str, str, str]:
    return one.run.data, one.run.vision, one.run.variant


def _cells(jobs: Together) -> tuple[str, str, str]:
    """Return number, hours of the shortest and the longest, and GPU-hours."""
    ends = [number(one.seconds / HOUR) for one in (*jobs.timed[-1:], *jobs.timed[:1])]
    total = number(jobs.gpu_hours) if jobs.timed else "-"
    return f"{len(jobs.each)}", " to ".join(dict.fromkeys(ends)) or "-", total


def _record(one: Expected) -> dict[str, object]:
    """Return one training or evaluation, ready for JSON."""
    hours = None if one.seconds is None else one.seconds / HOUR
    known = {"hours": hours, "known_by": one.basis, "note": one.note}
    return {"run": one.run.name, "seed": one.seed, **known}


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
    numbers = [text.rjust(width) for text, width in zip(row[3:-1], widths[3:-1], strict=True)]
    return "  ".join([*texts, *numbers, row[-1]])
