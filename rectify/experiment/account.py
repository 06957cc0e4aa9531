"""What a plan takes, for people and for programs: trainings, hours, bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rectify.experiment.forecast import GPUS, HOUR, Expected, Forecast, number
from rectify.experiment.storage import Storage

DEFAULT = Path("config.yaml")
HEADS = ("data", "vision", "variant", "trainings", "hours each", "GPU-hours", "known by")
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
    configs: Sequence[Path] = (DEFAULT,)
    """Files of the configuration."""

    def text(self) -> str:
        """Return a line for each kind of training, and then the sums."""
        groups = self._groups()
        rows = [HEADS, *(self._row(names, group) for names, group in groups.items())]
        widths = [max(len(row[place]) for row in rows) for place in range(len(HEADS))]
        lines = [_aligned(row, widths) for row in rows] if groups else []
        others = ", ".join(f"{name} {count}" for name, count in self.forecast.others.items())
        lines.append(f"{self.forecast.line()}; {sum(self.forecast.others.values())} other jobs")
        if others:
            lines.append(f"other jobs: {others}")
        if self.forecast.timed:
            longest = self.forecast.timed[0]
            lines.append(f"longest: {longest.name}")
        kinds = (f"{name.replace('_', ' ')} {size(value)}" for name, value in self._sizes.items())
        lines.append(f"storage: {', '.join(kinds)}")
        bases = {one.basis for one in self.forecast.trainings}
        lines += [f"{name}: {what}" for name, what in MEANING.items() if name in bases]
        notes = {one.note for one in self.forecast.trainings if one.note}
        lines += [f"unknown: {note}" for note in sorted(notes)]
        return "\n".join([*lines, *([self._advice] if self.forecast.is_bound else [])])

    def line(self) -> str:
        """Return the trainings in one line, and what their results take."""
        return f"{self.forecast.line()}; {size(sum(self.storage))} of results and states"

    def record(self) -> dict[str, object]:
        """Return the same, ready for JSON."""
        forecast = self.forecast
        longest = forecast.timed[0] if forecast.timed else None
        return {
            "trainings": len(forecast.trainings),
            "trainings_timed": len(forecast.timed),
            "other_jobs": dict(forecast.others),
            "card": forecast.card,
            "gpus_of_a_training": forecast.gpus,
            "gpu_hours": forecast.gpu_hours,
            "wall_hours": {f"{gpus}": forecast.wall_hours(gpus) for gpus in GPUS},
            "longest": longest and {"training": longest.name, "hours": longest.seconds / HOUR},
            "bytes": self._sizes,
            "runs": [
                {
                    "run": one.run.name,
                    "seed": one.seed,
                    "hours": None if one.seconds is None else one.seconds / HOUR,
                    "known_by": one.basis,
                    "note": one.note,
                }
                for one in forecast.trainings
            ],
        }

    @property
    def _sizes(self) -> Mapping[str, int]:
        return self.storage._asdict()

    def _groups(self) -> dict[tuple[str, str, str], list[Expected]]:
        groups: dict[tuple[str, str, str], list[Expected]] = {}
        for one in self.forecast.trainings:
            names = (one.run.data, one.run.vision, one.run.variant)
            groups.setdefault(names, []).append(one)
        return groups

    def _row(self, names: Sequence[str], group: Sequence[Expected]) -> tuple[str, ...]:
        times = sorted(one.seconds / HOUR for one in group if one.seconds is not None)
        ends = dict.fromkeys(number(hours) for hours in (times[:1] + times[-1:]))
        hours = " to ".join(ends) or "-"
        total = number(self.forecast.gpus * sum(times)) if times else "-"
        bases = ", ".join(dict.fromkeys(one.basis for one in group))
        return (*names, f"{len(group)}", hours, total, bases)

    @property
    def _advice(self) -> str:
        """What to call on a GPU, so that nothing is counted any more."""
        data = dict.fromkeys(
            one.run.data for one in self.forecast.trainings if one.basis == "counted"
        )
        words = [f"'{name}_*'" for name in data]
        if tuple(self.configs) != (DEFAULT,):
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


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    texts = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
    numbers = [text.rjust(width) for text, width in zip(row[3:6], widths[3:6], strict=True)]
    return "  ".join([*texts, *numbers, row[6]])
