"""What was run for a page: trainings, machine, time, command, commit. Only what files record."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

Note = dict[str, Any]
"""The provenance of a table, as JSON holds it."""


def jobs(benchmarks: Path) -> DataFrame:
    """Return a row for each finished job: its rule, its seconds, and when it ended (s since 1970).

    A file ``<rule>/<anything>.tsv`` is one job; directly in the folder it is ``<rule>.tsv``. The
    end is the time at which the file was written; a copy has its own.
    """
    rows = []
    for path in sorted(benchmarks.rglob("*.tsv")):
        parts = path.relative_to(benchmarks).parts
        seconds = float(pd.read_csv(path, sep="\t", na_values="-")["s"].mean())
        rows.append((parts[0].removesuffix(".tsv"), seconds, path.stat().st_mtime))
    return DataFrame(rows, columns=["rule", "seconds", "ended"])


def times_of_rules(finished: DataFrame) -> DataFrame:
    """Return jobs, total and longest time (s) of each rule, the longest total first."""
    times = finished.groupby("rule")["seconds"].agg(jobs="count", total="sum", longest="max")
    return times.sort_values("total", ascending=False).reset_index()


def overview(notes: Sequence[Note], finished: DataFrame, command: str) -> dict[str, str]:
    """Return what was run, by a word for it; what nothing records is left out.

    Args:
        notes: The provenance of each table and of each figure's values.
        finished: A row for each job, as ``jobs`` returns them.
        command: That made the page, or nothing.
    """
    facts = {
        "Trainings": _trainings(notes),
        "Machine": "; ".join([*_devices(notes), *_all(note.get("platform") for note in notes)]),
        "Time": _time(finished),
        "Command": command,
        "Commit": ", ".join(_all(note.get("commit") for note in notes)),
    }
    return {name: text for name, text in facts.items() if text}


def _trainings(notes: Sequence[Note]) -> str:
    """Return how many trainings there are, each counted once, and their seeds."""
    facts = [note["facts"] for note in notes]
    trained = {
        (run, seed) for fact in facts for run in fact.get("runs", ()) for seed in fact["seeds"]
    }
    if not trained:
        return ""
    runs, seeds = (sorted(set(values)) for values in zip(*trained, strict=True))
    named = ", ".join(map(str, seeds))
    return f"{len(trained):,} of {len(runs):,} models, seed{'s' * (len(seeds) > 1)} {named}"


def _devices(notes: Sequence[Note]) -> list[str]:
    """Return the devices of the trainings; of the tables, where a note names no other."""
    return _all(
        device for note in notes for device in note["facts"].get("devices") or [note.get("device")]
    )


def _time(finished: DataFrame) -> str:
    """Return how many jobs there were, their time in all, and when their files were written."""
    if finished.empty:
        return ""
    minutes, times = finished["seconds"].sum() / 60, finished["ended"]
    first, last = (datetime.fromtimestamp(time, UTC) for time in (times.min(), times.max()))
    until = f"{last:%H:%M}" if last.date() == first.date() else f"{last:%Y-%m-%d %H:%M}"
    span = f"{first:%Y-%m-%d %H:%M} to {until} UTC"
    return f"{len(finished):,} jobs, {minutes:,.1f} minutes of work; files written {span}"


def _all(texts: Iterable[str | None]) -> list[str]:
    return sorted({text for text in texts if text})
