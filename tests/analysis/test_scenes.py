"""Scenes and forecasts as figures read them: against the task's own way of reading, with torch."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from rectify.analysis.scenes import Scenes, read_forecasts
from rectify.data.forecasts import OBSERVED, ForecastSet, save_scenes
from rectify.demo.lanes import lanes
from rectify.results.provenance import provenance
from rectify.runtime import generator
from rectify.training.scoring import write_predictions
from tests.helpers.forecasters import constant_velocity


@pytest.fixture(scope="module")
def drawn() -> dict[str, ForecastSet]:
    return lanes(train_items=1, test_items=9)


@pytest.fixture(scope="module")
def folder(drawn: dict[str, ForecastSet], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("lanes")
    save_scenes(place, drawn, provenance(0))
    return place


def test_a_scene_is_the_one_that_a_model_sees(drawn: dict[str, ForecastSet], folder: Path) -> None:
    scenes, batch = Scenes(folder), drawn["test"].batch(torch.arange(9))
    assert len(scenes) == 9
    for number in range(9):
        scene = scenes[number]
        agents, seen = ~batch["no_agent"][number], batch["seen"][number]
        assert np.array_equal(~np.isnan(scene.tracks[..., 0]), seen[agents])
        expected = batch["tracks"][number][agents]
        np.testing.assert_allclose(np.nan_to_num(scene.tracks), expected, atol=1e-4)
        around = batch["lanes"][number][~batch["no_lane"][number]]
        np.testing.assert_allclose(scene.lanes, around, atol=1e-4)


def test_hard_scenes_are_those_that_constant_velocity_does_not_explain(
    drawn: dict[str, ForecastSet], folder: Path
) -> None:
    tracks = drawn["test"].batch(torch.arange(9))["tracks"]
    ends = constant_velocity(tracks)[:, 0, -1]
    apart = (ends - tracks[:, 0, -1]).norm(dim=1).tolist()
    order = Scenes(folder).from_easy_to_hard(OBSERVED).tolist()
    assert order == sorted(range(9), key=lambda number: apart[number])


def test_another_file_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="safetensors file with split test") as told:
        Scenes(tmp_path)
    assert "\n" not in f"{told.value}"
    save_file({"test.images": np.zeros(3)}, tmp_path / "arrays.safetensors")
    with pytest.raises(ValueError, match=r"split test, got .* test\.tracks"):
        Scenes(tmp_path)


def test_forecasts_are_read_as_they_were_written(tmp_path: Path) -> None:
    ways = torch.randn(4, 3, 5, 2, generator=generator(0))
    shares = torch.rand(4, 3, generator=generator(1))
    values = {"loss": torch.zeros(4), "trajectories": ways.flatten(1), "probabilities": shares}
    path = tmp_path / "predictions.parquet"
    write_predictions({name: one.double() for name, one in values.items()}, path)
    found = read_forecasts(path)
    assert np.array_equal(found.trajectories, ways.numpy())
    assert np.array_equal(found.probabilities, shares.numpy())
    table = pd.read_parquet(path)
    assert list(table) == ["item", "loss", "trajectories", "probabilities"]
    assert f"{table['loss'].dtype}" == "float32"
    other = tmp_path / "other.parquet"
    write_predictions({"loss": torch.zeros(4).double()}, other)
    with pytest.raises(ValueError, match="must have trajectories, got none"):
        read_forecasts(other)
