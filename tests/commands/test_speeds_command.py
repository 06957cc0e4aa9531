"""`rectify speeds`, with invented speeds: a file for `rectify plan --speed`."""

from pathlib import Path

import pytest
import torch

from rectify.__main__ import main
from rectify.experiment import timing
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import load

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ("--config", f"{ROOT / 'config.yaml'}", "--threads", "1")

pytestmark = pytest.mark.usefixtures("restored_runtime")


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The runs whose steps were timed."""
    names: list[str] = []

    def invented(plan: Plan, run: Run, device: torch.device) -> float:
        names.append(run.name)
        return 100.0 + len(names) / 3

    monkeypatch.delenv("RECTIFY_WARM", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(timing, "items_per_second", invented)
    return names


def test_the_output_is_a_file_for_the_plan(
    timed: list[str], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert main(["speeds", "modelnet40-1k_*", "ssv2_vit-s_insert_*", *CONFIG]) == 0
    (tmp_path / "speeds.yaml").write_text(capsys.readouterr().out)
    found = load(tmp_path / "speeds.yaml").items_per_second
    clouds = {
        f"modelnet40-1k_point-bert_{name}" for name in ("vanilla", "insert_llama-7b_layer-31_end")
    }
    assert clouds < set(found)
    assert found[timed[0]] == pytest.approx(100.333, abs=0.01)
    same = [f"ssv2_vit-s_insert_llama-7b_layer-{layer}_end" for layer in (15, 31)]
    assert found[same[0]] == found[same[1]]  # one model, timed once
    assert len(timed) == len(found) - 1


def test_a_pattern_of_no_run_is_one_line(timed: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["speeds", "argoversum_*", *CONFIG]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("speeds: runs must be names or patterns of runs of the config")
    assert (said.err.count("\n"), said.out, timed) == (1, "", [])
