"""The benchmark of trainings through SLURM, with two of them."""

import contextlib

import pytest

from benchmarks import slurm
from benchmarks.paired import Options
from tests.slurm.cluster import Cluster


def test_overhead_is_what_a_job_takes_beyond_its_commands(
    cluster: Cluster, warmed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECTIFY_WARM", warmed)  # what a job adds to its commands is the same
    monkeypatch.setattr(slurm, "TRAININGS_PER_ROUND", 2)
    monkeypatch.setattr(slurm, "Cluster", lambda folder: contextlib.nullcontext(cluster))
    table = slurm.run(Options(rounds=1, threads=1, only=()))[0]
    alone, grouped = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (alone["submitted"], alone["SLURM jobs"]) == ("alone", "2")
    assert (grouped["submitted"], grouped["SLURM jobs"]) == ("grouped", "1")
    for row in (alone, grouped):
        training, overhead = float(row["training, s"]), float(row["overhead, s"])
        assert training > 0
        assert 0 < overhead < 60 * float(row["minutes in all"])
