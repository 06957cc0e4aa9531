"""Trackers: each shows what the files say, once, also of a training that was interrupted.

The clients are stand-ins with the calls that are used: `tests.helpers.trackers`.
"""

from pathlib import Path

import pytest

from rectify.data.sets import ImageSet
from rectify.experiment.run import read_run
from rectify.results.declared import GSNR
from rectify.results.tables import read_table
from rectify.training.trackers import PROJECT, TRACKERS
from tests.helpers.trackers import Service, services
from tests.helpers.training import interrupt_after, settings_of, training, write_set

pytestmark = pytest.mark.usefixtures("restored_runtime")

CLIENTS = ["wandb", "mlflow", "trackio"]


@pytest.fixture
def folder(tmp_path: Path, images: ImageSet) -> Path:
    write_set(tmp_path / "data", images)
    return tmp_path


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Service]:
    for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return services(monkeypatch)


def test_an_interrupted_training_is_one_run_with_the_numbers_of_its_files(
    folder: Path, served: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"trackers": CLIENTS, "events": folder / "events"}
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            training(folder, settings_of(), **more)
    for service in served.values():
        (run,) = service.runs.values()
        assert run.has_ended
        assert {epoch for _, epoch, _ in run.values} == {0, 1}
    history = training(folder, settings_of(), **more)
    expected = {(name, *pair) for name in history for pair in history[name].items()}
    gsnr = read_table(GSNR, folder / "run" / "gsnr.csv")
    for row in gsnr.itertuples():
        expected.add((f"gsnr/{row.estimator}/block-{row.block}", row.epoch, row.gsnr))
    names = {name for name, *_ in expected}
    for client, service in served.items():
        (run,) = service.runs.values()
        shown = {(name, epoch): value for name, epoch, value in run.values}
        assert len(run.values) == len(shown) == len(expected)
        for name, epoch, value in expected:
            assert shown[name, epoch] == pytest.approx(value, rel=1e-8)  # nine digits in a file
        assert {name for name, *_ in run.values} == names
        assert (run.has_ended, run.project) == (True, PROJECT)
        assert run.name.startswith("toy_vit-s_vanilla--seed-0")
        assert run.config == read_run(folder / "config.json").model_dump(mode="json"), client


def test_another_training_is_another_run_in_the_project_that_is_named(
    folder: Path, served: dict[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    for name, lr in (("one", 1e-3), ("two", 1e-2)):
        recipe = {"lr": lr, "epochs": 1, "warmup_epochs": 0}
        more = {"trackers": CLIENTS, "events": folder / "events" / name}
        training(folder, settings_of(training=recipe), name, **more)
    for name, service in served.items():
        rates = [run.config["recipe"]["lr"] for run in service.runs.values()]
        assert rates == [1e-3, 1e-2]
        projects = {run.project for run in service.runs.values()}
        assert projects == {PROJECT if name == "trackio" else "mine"}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_package_that_is_missing_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = f"must have the package {name}, got none. Install it, or leave it out of `trackers`"
    with pytest.raises(ValueError, match=message):
        training(folder, settings_of(), trackers=name, events=folder / "events")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_refuses_is_one_line_before_the_first_epoch(
    folder: Path, served: dict[str, Service], name: str
) -> None:
    served[name].refuses = True
    with pytest.raises(ValueError, match=f"train: {name} must accept this training") as error:
        training(folder, settings_of(), trackers=name, events=folder / "events")
    assert "\n" not in str(error.value)
    assert not list((folder / "states").rglob("*.pt"))
