"""What was run: trainings counted once, times from job files, nothing that no file records."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rectify.analysis.overview import jobs, overview, times_of_rules


def note(*runs: str, seeds: tuple[int, ...] = (0, 1), **more: object) -> dict[str, object]:
    facts = {"seeds": list(seeds), "runs": list(runs), "devices": ["H100"] if runs else []}
    return {"commit": "abc", "platform": "Linux", "device": "x86_64", "facts": facts, **more}


def job(folder: Path, name: str, seconds: float, ended: datetime, memory: str = "7") -> None:
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t{memory}\n")
    os.utime(path, times=(ended.timestamp(), ended.timestamp()))


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    job(tmp_path, "train/a", 90.0, NOON)
    job(tmp_path, "train/b", 150.0, NOON.replace(minute=2), "-")
    job(tmp_path, "table", 60.0, NOON.replace(minute=30))
    return tmp_path


def test_job_times_are_summed_by_rule(benchmarks: Path) -> None:
    times = times_of_rules(jobs(benchmarks)).set_index("rule")
    assert list(times.index) == ["train", "table"]
    assert times.loc["train"].tolist() == [2, 240.0, 150.0]
    assert times.loc["table"].tolist() == [1, 60.0, 60.0]


def test_time_is_the_sum_of_all_jobs_and_when_their_files_were_written(benchmarks: Path) -> None:
    said = overview([], jobs(benchmarks), "")
    written = "files written 2026-03-01 12:00 to 12:30 UTC"
    assert said == {"Time": f"3 jobs, 5.0 minutes of work; {written}"}
    job(benchmarks, "late", 60.0, NOON.replace(day=2))
    said = overview([], jobs(benchmarks), "")["Time"]
    assert said.startswith("4 jobs, 6.0 minutes of work; ")
    assert said.endswith("written 2026-03-01 12:00 to 2026-03-02 12:00 UTC")


def test_a_training_that_several_tables_show_is_counted_once(tmp_path: Path) -> None:
    notes = [note("a", "b"), note("b", "c"), note("c", seeds=(0, 1, 5)), note()]
    trained = {(run, seed) for run in "abc" for seed in (0, 1)} | {("c", 5)}
    said = overview(notes, jobs(tmp_path), "snakemake all")
    assert said["Trainings"] == f"{len(trained)} of 3 models, seeds 0, 1, 5"
    assert said["Machine"] == "H100; x86_64; Linux"
    assert (said["Command"], said["Commit"]) == ("snakemake all", "abc")
    assert "Time" not in said


def test_what_nothing_records_is_left_out(tmp_path: Path) -> None:
    assert overview([], jobs(tmp_path), "") == {}
    bare = {"facts": {}}
    assert overview([bare], jobs(tmp_path), "") == {}
