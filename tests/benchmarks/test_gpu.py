"""The benchmark of a GPU, small and on the CPU: what it checks, counts and prints."""

import pytest
import torch

from benchmarks import gpu, gpu_checks
from benchmarks.paired import Options
from rectify.gsnr.moments import GradientMoments
from tests.helpers.processes import spawn_forks

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> gpu.Bench:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return gpu.Bench(torch.device("cpu"), minutes=5)


def test_its_parts_give_tables_and_a_file(bench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables = gpu.run(Options(1, 1, ("limits", "sums", "similarity")))
    assert [len(table.rows) for table in tables] == [2, 5, 3]
    assert '"copy, bytes read and written"' in (tmp_path / "gpu.json").read_text()
    assert all(len(row) == len(table.columns) for table in tables for row in table.rows)


def test_every_way_of_the_sums_is_checked_and_holds():
    rows = list(gpu_checks._sums(torch.device("cpu")))
    assert len(rows) == 4
    assert all(0 < error <= most for _, error, most in rows)


def test_a_wrong_sum_does_not_hold(monkeypatch):
    wrong = gpu_checks.chunked_sums

    def halved(inputs, delta):
        sums = wrong(inputs, delta)
        return sums._replace(squares=sums.squares / 2)

    monkeypatch.setattr(gpu_checks, "chunked_sums", halved)
    monkeypatch.setattr(gpu_checks, "SHAPES", gpu_checks.SHAPES[:1])
    (_, error, most), *_ = gpu_checks._sums(torch.device("cpu"))
    assert gpu_checks._verdict(error, most) == "NO"


def test_randaugment_of_a_batch_holds_and_that_of_nothing_does_not(monkeypatch):
    monkeypatch.setattr(gpu_checks, "IMAGES", 30)
    assert gpu_checks._augmented(torch.device("cpu"))[1:] == (0, 0)
    monkeypatch.setattr(gpu_checks, "operate", lambda images, drawn: images)
    assert gpu_checks._augmented(torch.device("cpu"))[1] > 0.1


def test_a_resumed_training_and_one_of_two_processes_hold(monkeypatch):
    monkeypatch.setattr(gpu_checks.multiprocessing, "spawn", spawn_forks)
    rows = {what: (error, most) for what, error, most in gpu_checks._training(torch.device("cpu"))}
    assert rows["a resumed training's weights"] == (0, 0)
    error, most = rows["two processes' weights"]
    assert error <= most


@pytest.mark.parametrize(
    ("variant", "mode"),
    [("vanilla", "off"), ("auxiliary", "observe"), ("vanilla", "pairs"), ("vanilla", "every")],
)
def test_a_step_is_counted_and_runs(bench, variant, mode, monkeypatch):
    measured = []
    before = GradientMoments.moments
    counted = lambda self, *samples: measured.append(1) or before(self, *samples)  # noqa: E731
    monkeypatch.setattr(GradientMoments, "moments", counted)
    work, flops = gpu.training_step(bench, gpu.Case("tiny", 32, 8, variant, "eager", mode))
    work()
    assert len(measured) == (mode != "off")
    linears = 2 * 48 * (3 * 48 + 48 + 2 * 4 * 48)  # of a token and block
    tokens, samples = 17, gpu.CPU.batch
    assert flops > 2.5 * 2 * linears * tokens * samples  # forward, and backward twice


def test_cases_begin_with_those_that_others_are_compared_with():
    cases = list(gpu._cases(gpu.GPU))
    for number, case in enumerate(cases):
        assert case._replace(mode="off") in cases[: number + 1]
    assert len(cases) == len(set(cases))
