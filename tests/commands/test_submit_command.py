"""`rectify submit`: the files of the benchmarks' servers, from a run that has learned their sets.

Trajectories are on the map; answers are those that a model chose among all that it may give.
"""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from rectify.__main__ import main
from rectify.data.forecasts import Scene, gathered
from rectify.data.manifests import label_order
from rectify.data.questions import load_questions
from rectify.demo.lanes import drawn
from rectify.demo.questions import questions
from rectify.experiment.grid import read, run_settings
from rectify.experiment.run import Run, read_run
from rectify.results.files import write_json
from rectify.tasks import find, submission_of
from rectify.tasks.contract import Machine
from rectify.tasks.motion_forecasting.readers import argoverse1, argoverse2
from rectify.training.models import save_model, untrained
from rectify.typed import merge
from tests.helpers import question_trees, traffic_trees
from tests.helpers.configs import DEMO_PANG

pytestmark = pytest.mark.usefixtures("restored_runtime")
SIZES = {"overrides": {"width": 4, "layers": 2, "modes": 7}}
STEPS = {"argoverse1": {}, "argoverse2": {"observed": 50, "future": 60}}


def run_of(folder: Path, reader: str) -> torch.nn.Module:
    """Write a run's settings and first weights, and return the model."""
    data = {"traffic": {"task": "motion_forecasting", "reader": reader, "folder": "data",
                        "training": {"recipe": "pang-vectornet"}, **STEPS[reader]}}  # fmt: skip
    config = read(merge(DEMO_PANG, {"data": data, "visions": {"vectornet-64": SIZES}}))
    settings = run_settings(config, Run("traffic", "vectornet-64"))
    write_json(folder / "config.json", settings.model_dump(mode="json"))
    model = untrained(settings, find("motion_forecasting"), None, 0)
    save_model(model, {}, folder / "model.safetensors")
    return model.eval()


def submit(folder: Path, reader: str, output: str, *options: str) -> int:
    return main(
        ["submit", *options, "--config", f"{folder / 'config.json'}", "--reader", reader,
         "--model", f"{folder / 'model.safetensors'}", "--folder", f"{folder / 'data'}",
         "--seed", "0", "--threads", "1", "--output", f"{folder / output}"]
    )  # fmt: skip


def until(scene: Scene, steps: int) -> Scene:
    """Return what a public test file has of a scene."""
    return dataclasses.replace(scene, tracks=scene.tracks[:, :steps], seen=scene.seen[:, :steps])


def expected(model: torch.nn.Module, reader, folder: Path) -> list[tuple[list, list]]:
    """Trajectories on the map and probabilities, the most likely first, scene by scene."""
    scenes = reader.read_unscored(folder / "data")
    found = []
    for number in range(len(scenes)):
        batch = scenes.batch(torch.tensor([number]))
        outputs = {name: one[0, 0].tolist() for name, one in model(batch).items()}
        order = sorted(range(7), key=lambda mode: -outputs["scores"][mode])[:6]
        shares = [math.exp(outputs["scores"][mode]) for mode in order]
        angle, origin = scenes.headings[number].item(), scenes.origins[number].tolist()
        ways = [
            [
                (
                    origin[0] + math.cos(angle) * x - math.sin(angle) * y,
                    origin[1] + math.sin(angle) * x + math.cos(angle) * y,
                )
                for x, y in outputs["trajectories"][mode]
            ]
            for mode in order
        ]
        found.append((ways, [share / sum(shares) for share in shares]))
    return found


def test_argoverse_1_takes_a_row_for_each_point(tmp_path: Path) -> None:
    traffic = drawn(seed=0, train_items=1, test_items=3)
    data = traffic_trees.write(tmp_path / "data", traffic)
    place = data / "test_obs" / "data"
    place.mkdir(parents=True)
    for number, scene in zip((7, 31, 100), traffic["test"][0], strict=True):
        (place / f"{number}.csv").write_text(traffic_trees.csv_of(until(scene, 20)))
    model = run_of(tmp_path, "argoverse1")
    assert submit(tmp_path, "argoverse1", "mine.h5") == 0
    with h5py.File(tmp_path / "mine.h5") as file:
        assert list(file) == ["argoverse_forecasting"]
        rows = file["argoverse_forecasting"][:]
    assert rows.shape == (3 * 6 * 30, 4)
    rows = rows.reshape(3, 6, 30, 4)
    assert (rows[..., 0] == np.array([7, 31, 100])[:, None, None]).all()
    for scene, (ways, shares) in zip(rows, expected(model, argoverse1, tmp_path), strict=True):
        np.testing.assert_allclose(scene[..., 1:3], ways, atol=2e-3)
        np.testing.assert_allclose(scene[:, 0, 3], shares, rtol=1e-4)
        assert (scene[..., 3] == scene[:, :1, 3]).all()
    (place / "8.csv").write_text(traffic_trees.csv_of(traffic["test"][0][0]))
    assert submit(tmp_path, "argoverse1", "mine.h5") == 2  # it has its future


def test_argoverse_2_takes_a_row_for_each_trajectory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes, maps = drawn(seed=0, train_items=1, test_items=2)["test"]
    past = [until(traffic_trees.longer(scene), 50) for scene in scenes]
    traffic_trees.write_argoverse2(tmp_path / "data", {"unscored": (past, maps)})
    model = run_of(tmp_path, "argoverse2")
    assert submit(tmp_path, "argoverse2", "mine.parquet") == 0
    rows = pd.read_parquet(tmp_path / "mine.parquet")
    assert list(rows) == [
        "scenario_id", "track_id", "probability", "predicted_trajectory_x",
        "predicted_trajectory_y",
    ]  # fmt: skip
    assert rows["scenario_id"].tolist() == ["0000-0"] * 6 + ["0000-1"] * 6
    assert set(rows["track_id"]) == {"1000"}
    assert rows.groupby("scenario_id")["probability"].sum().tolist() == pytest.approx([1, 1])
    for number, (ways, shares) in enumerate(expected(model, argoverse2, tmp_path)):
        own = rows[6 * number : 6 * number + 6]
        assert own["probability"].tolist() == pytest.approx(shares, rel=1e-4)
        found = np.stack([np.stack(own[f"predicted_trajectory_{axis}"]) for axis in "xy"], 2)
        np.testing.assert_allclose(found, ways, atol=2e-3)
    assert submit(tmp_path, "argoverse1", "mine.h5") == 2
    assert "must see and forecast 20 and 30 steps for argoverse1, got 50 and 60" in (
        capsys.readouterr().err
    )


def test_places_on_the_map_are_what_scored_agents_see_turned_back() -> None:
    """The truth of the drawn scenes themselves, through their own frame and back."""
    scenes, maps = drawn(seed=0, train_items=1, test_items=4)["test"]
    found = gathered(scenes, maps)
    seen: Tensor = found.batch(torch.arange(4))["tracks"][:, :1].double()
    truth = np.stack([scene.tracks[:1] for scene in scenes])
    np.testing.assert_allclose(found.on_map(seen), truth, atol=2e-3)


def asked(folder: Path) -> tuple[list[dict], torch.nn.Module]:
    """Write VQAv2 with its public test, prepared, and a run on it; return questions and model."""
    drawn_questions = questions(train_scenes=30, test_scenes=9)
    data = question_trees.write(folder / "data", drawn_questions)
    names = (path.name for path in (data / "val2014").iterdir())
    (data / "test2015").mkdir()
    for name in names:
        place = data / "test2015" / name.replace("val2014", "test2015")
        shutil.copy(data / "val2014" / name, place)
    path = data / "v2_OpenEnded_mscoco_val2014_questions.json"
    public = json.loads(path.read_text())["questions"][::-3]
    test = path.with_name("v2_OpenEnded_mscoco_test2015_questions.json")
    test.write_text(json.dumps({"questions": public}))
    words = {"task": "visual_question_answering", "image_size": 56, "answers": 8, "words": 64}
    sizes = {"train_scenes": 30, "test_scenes": 9}
    tokenizer = {**words, "reader": "questions", "sizes": sizes}
    prepared(folder / "words", tokenizer)
    files = {**words, "reader": "vqav2", "folder": f"{data}", "tokenizer": f"{folder / 'words'}"}
    prepared(folder / "set", files)
    config = read(merge(DEMO_PANG, {"data": {"vqav2": {**files, "training": {"recipe": "meter"}}}}))
    settings = run_settings(config, Run("vqav2", "meter-64"))
    write_json(folder / "config.json", settings.model_dump(mode="json"))
    model = untrained(settings, find(words["task"]), None, 0)
    facts = {"label_order": label_order(folder / "set")}
    save_model(model, facts, folder / "model.safetensors")
    return public, model.eval()


def prepared(folder: Path, settings: dict) -> None:
    words = ["prepare-data", "--data", "vqav2", "--settings", json.dumps(settings)]
    assert main([*words, "--folder", f"{folder}", "--threads", "1"]) == 0


def test_vqav2_takes_an_answer_to_each_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public, model = asked(tmp_path)
    learned = "--data", f"{tmp_path / 'set'}"
    assert submit(tmp_path, "vqav2", "mine.json", *learned) == 0
    rows = json.loads((tmp_path / "mine.json").read_text())
    assert [row["question_id"] for row in rows] == [one["question_id"] for one in public]
    assert all(list(row) == ["question_id", "answer"] for row in rows)
    known = load_questions(tmp_path / "set", "train").answers
    assert {row["answer"] for row in rows} <= set(known)
    # the same questions, and images, are the prepared set's test
    task = find("visual_question_answering")
    settings = json.loads((tmp_path / "config.json").read_text())["data"]
    entry = task.settings.for_run({key: one for key, one in settings.items() if key != "name"})
    machine, numbers = Machine.of(torch.device("cpu"), 1), load_questions(tmp_path / "set", "test")
    recipe = read_run(tmp_path / "config.json").recipe
    test = next(task.test_sets(entry, tmp_path / "set", recipe, machine)).source
    for row in rows:
        item = numbers.numbers.tolist().index(row["question_id"])
        (batch,) = test.read(torch.tensor([item]), 1)
        with torch.inference_mode():
            logits = model(batch["inputs"])[0].tolist()
        assert row["answer"] == known[logits.index(max(logits))]
    for options, said in (
        ((), "questions need --data, .* got None and None"),
        ((*learned, "--reach", "50"), "no --reach, got .*/set and 50"),
    ):
        capsys.readouterr()
        assert submit(tmp_path, "vqav2", "other.json", *options) == 2
        assert re.search(said, capsys.readouterr().err)
    save_model(model, {"label_order": "other"}, tmp_path / "model.safetensors")
    assert submit(tmp_path, "vqav2", "other.json", *learned) == 2
    assert "must have learnt the classes in the order of" in capsys.readouterr().err
    assert not (tmp_path / "other.json").exists()


def test_a_task_without_a_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one of motion_forecasting, visual_.*, got pairs"):
        submission_of("pairs")
