"""`rectify plan`, with invented jobs and counts."""

import argparse
import json
import subprocess
from pathlib import Path

import pytest

from rectify.commands import plan
from rectify.experiment import jobs
from rectify.experiment.grid import load
from rectify.experiment.plan import Plan
from rectify.experiment.work import Flops, Subject, Work

ROOT = Path(__file__).resolve().parents[2]
JOBS = [
    ("train", {"run": "cifar100_vit-s_vanilla", "seed": "0"}),
    ("train", {"run": "cifar100_vit-s_vanilla", "seed": "1"}),
    ("evaluate", {"run": "cifar100_vit-s_vanilla", "seed": "0"}),
    ("page", {"page": "index"}),
]


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    plan.add_arguments(parser)
    return parser.parse_args([*map(str, words), "--config", f"{ROOT / 'config.yaml'}"])


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple]:
    """What Snakemake was asked for; it plans ``JOBS``."""
    asked: list[tuple] = []

    def answer(*words: object) -> list:
        asked.append(words)
        return JOBS

    def counted(what: Subject) -> Work:
        size = 2 if what.language else 1
        return Work(Flops(size, 1, size, 1), 10, 10, 20, 0, 12, 384)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "planned", answer)
    monkeypatch.setattr(plan, "count", counted)
    return asked


@pytest.mark.slow
def test_text_and_json_say_the_same(planned: list[tuple], capsys: pytest.CaptureFixture) -> None:
    plan.run(arguments("table6", "--json"))
    record = json.loads(capsys.readouterr().out)
    assert (record["trainings"], record["other_jobs"]) == (2, {"evaluate": 1, "page": 1})
    assert record["evaluations"] == 1
    assert record["gpu_hours"] == pytest.approx(sum(one["hours"] for one in record["runs"]))
    assert record["bytes"]["models"] == 20
    assert set(record["wall_hours"]) == {"1", "4", "8", "16"}
    plan.run(arguments("table6", "--again", "--gpus", "2", "3"))
    text = capsys.readouterr().out
    assert " h on 2 / 3 GPUs\n" in text
    rules = {line.split()[0]: line.split()[1] for line in text.splitlines() if line}
    assert (rules["train"], rules["evaluate"], rules["all"]) == ("2", "1", "3")
    assert "other jobs, of which no hours are known: page 1\n" in text
    assert "models 20 B" in text
    files = [f"results/paper/tables/table6.{suffix}" for suffix in ("csv", "md", "tex")]
    assert [words[1:] for words in planned] == [(files, False), (files, True)]


def test_a_slower_card_and_a_speed_of_one_s_own_change_the_hours(
    planned: list[tuple], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    def hours(*words: object) -> tuple[float, str]:
        plan.run(arguments("table6", "--json", *words))
        (first, _) = json.loads(capsys.readouterr().out)["runs"]
        return first["hours"], first["known_by"]

    usual, slower = hours(), hours("--card", "A40")
    assert slower == (pytest.approx(usual[0] * 989 / 149.7), "stated")
    file = tmp_path / "mine.yaml"
    file.write_text("items_per_second: {cifar100_*: 10}")
    own, basis = hours("--speed", file)
    assert basis == "given"
    steps, measured = 50_000 // 256, 10 * (3.5 - 1)
    trained = 300 * steps * 256 / 10 / 3600
    modelled = steps * 256 / 5170 + measured * 256 / 7645  # of FLOPs that are those of timed steps
    assert own == pytest.approx(trained * (1 + 10_000 / 7645 / modelled))


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("tabel6",), "table6"),
        (("table6", "--card", "B12"), "plan: --card: must be"),
        (("table6", "--speed", "none.yaml"), "none.yaml: must be a YAML file"),
    ],
)
def test_a_mistake_is_one_line(words: tuple, error: str, planned: list[tuple]) -> None:
    with pytest.raises(ValueError, match=error) as raised:
        plan.run(arguments(*words))
    assert "\n" not in f"{raised.value}"


def test_what_snakemake_refuses_ends_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be that of the Snakefile"):
        jobs.planned([Path("config.yaml")], [])
    Path("Snakefile").touch()

    def refused(*words: object, **how: object) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess([], 1, "Traceback\nconfig: seeds must be given\n\n")

    monkeypatch.setattr(subprocess, "run", refused)
    with pytest.raises(ValueError, match=r"must plan the jobs, got: config: seeds must be given$"):
        jobs.planned([Path("config.yaml")], [])


def test_trainings_that_replace_results_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    paper = Plan(load([ROOT / "config.yaml"]))
    assert jobs.replaced(paper, JOBS) == jobs.replaced(paper, []) == ""
    for seed in (1, 2):  # the second one is not trained again
        summary = Path("results/paper/runs/cifar100_vit-s_vanilla", f"seed-{seed}", "summary.json")
        summary.parent.mkdir(parents=True)
        summary.touch()
    assert jobs.replaced(paper, JOBS).startswith("1 of 2 trainings replace results")


def test_a_project_of_its_own_has_its_configuration_in_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    read = []
    for name in (None, "config/config.yaml", "config.yaml"):
        if name:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()
        parser = argparse.ArgumentParser()
        plan.add_arguments(parser)
        read += parser.parse_args([]).config
    assert [*map(str, read)] == ["config.yaml", "config/config.yaml", "config.yaml"]
