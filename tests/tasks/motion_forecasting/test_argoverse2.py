"""Argoverse 2 as it is published, from drawn traffic; and one line for each damage."""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame

from rectify.data.forecasts import gathered, listing_of
from rectify.demo.lanes import drawn
from rectify.tasks.motion_forecasting.readers.argoverse2 import read
from rectify.tasks.motion_forecasting.settings import Settings
from tests.helpers.traffic_trees import longer, write_argoverse2

Line = list[list[float]]


def splits() -> dict:
    made = drawn(seed=0, train_items=3, test_items=2)
    return {
        split: ([longer(scene) for scene in scenes], maps) for split, (scenes, maps) in made.items()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_argoverse2(tmp_path_factory.mktemp("argoverse2"), splits())


def evenly(line: Line) -> Line:
    """Ten points at equal distances along a line, found by walking along it."""
    pieces = [math.dist(*ends) for ends in itertools.pairwise(line)]
    found = []
    for number in range(10):
        rest, piece = sum(pieces) * number / 9, 0
        while piece < len(pieces) - 1 and rest > pieces[piece]:
            rest, piece = rest - pieces[piece], piece + 1
        share = rest / pieces[piece]
        found.append([a + share * (b - a) for a, b in zip(*line[piece : piece + 2], strict=True)])
    return found


def test_the_files_give_the_scenes_that_were_written(source: Path) -> None:
    found = read(source)
    for split, (scenes, maps) in splits().items():
        ((city, lanes),) = maps.items()
        points = [evenly(line) for line in lanes.points.tolist()]
        left, right = (
            evenly(line.tolist())
            for line in (lanes.points[0][[0, 9]] + [0, 1.8], lanes.points[0][[0, 5, 9]] - [0, 1.8])
        )
        points[0] = [
            [(a + b) / 2 for a, b in zip(*ends, strict=True)]
            for ends in zip(left, right, strict=True)
        ]
        flags = lanes.flags * np.array([0, 1, 0], np.uint8)
        lanes = dataclasses.replace(lanes, points=np.array(points), flags=flags)
        places = [f"{'train' if split == 'train' else 'val'}/0000-{n}" for n in range(len(scenes))]
        order = [[0, *reversed(range(1, len(scene.seen)))] for scene in scenes]
        scenes = [
            dataclasses.replace(one, tracks=one.tracks[rows], seen=one.seen[rows], map=place)
            for one, rows, place in zip(scenes, order, places, strict=True)
        ]
        expected = gathered(scenes, dict.fromkeys(places, lanes), observed=50)
        for name in ("tracks", "seen", "agents", "origins", "headings", "flags", "near"):
            assert torch.equal(getattr(found[split], name), getattr(expected, name)), name
        torch.testing.assert_close(found[split].points, expected.points, rtol=0, atol=1e-8)
        assert found[split].cities == (city,) * len(scenes)
        assert found[split].sources == tuple(f"{place} 1000" for place in places)
        assert found[split].lanes.min() > 0
    assert found["train"].tracks.shape[1] == 110
    assert set(listing_of(found)["name"]) == {"PIT", "MIA"}


def test_the_scored_agent_is_at_the_origin_at_the_last_observed_step(source: Path) -> None:
    batch = read(source)["train"].batch(torch.arange(3))
    assert batch["tracks"][:, 0, 49].abs().max() == 0
    moved = batch["tracks"][:, 0, 48]
    assert (moved[:, 0] < 0).all()  # it came from behind
    assert moved[:, 1].abs().max() < 1e-5


ROWS, MAP = "train/0000-1/scenario_0000-1.parquet", "train/0000-1/log_map_archive_0000-1.json"


def table(change: Callable[[DataFrame], DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(pd.read_parquet(path)).to_parquet(path, index=False)


def lane(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content["lane_segments"])
        path.write_text(json.dumps(content))

    return edit


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "a file that is cut": (ROWS, cut, "must be an intact table, got "),
    "no file": (ROWS, lambda path: path.unlink(), "must be an intact table, got "),
    "no column": (ROWS, table(lambda rows: rows.drop(columns="city")), "got no city"),
    "words": (ROWS, table(lambda rows: rows.assign(position_x="far")), "must have their types"),
    "no step": (ROWS, table(lambda rows: rows.assign(timestep=math.nan)), "must have their types"),
    "no rows": (ROWS, table(lambda rows: rows[:0]), "must have rows, got none"),
    "no number": (ROWS, table(lambda rows: rows.assign(position_y=math.inf)), "must be finite"),
    "two focal tracks": (ROWS, table(lambda rows: rows.assign(focal_track_id=rows["track_id"])),
                         r"one track must be focal, got \d"),
    "no focal track": (ROWS, table(lambda rows: rows[rows["track_id"] != "1000"]),
                       "the focal track must have 110 steps, got 0"),
    "a test file": (ROWS, table(lambda rows: rows[rows["observed"]]),
                    "the focal track must have 110 steps, got 50"),
    "step 110": (ROWS, table(lambda rows: rows.assign(timestep=rows["timestep"] + 1)),
                 "steps must be 0 to 109, got 1 to 110"),
    "a row twice": (ROWS, table(lambda rows: pd.concat([rows, rows[-1:]])), "got two"),
    "a map that is cut": (MAP, cut, "must be a JSON file, got "),
    "no map": (MAP, lambda path: path.unlink(), "must be a JSON file, got "),
    "no lanes": (MAP, lane(lambda lanes: lanes.clear()), "must have lane_segments, got none"),
    "a list": (MAP, lambda path: path.write_text("[]"), "must have lane_segments, got none"),
    "a lane": (MAP, lane(lambda lanes: lanes.update({"5001": 3})), "another thing as lane 5001"),
    "a point": (MAP, lane(lambda lanes: lanes["5001"]["centerline"].__delitem__(slice(1, None))),
                "centerline must be two or more points .*, got 1 of lane 5001"),
    "a word": (MAP, lane(lambda lanes: lanes["5001"]["centerline"][0].update(x="a")),
               "centerline must be two or more points .*, got 0 of lane 5001"),
    "no coordinate": (MAP, lane(lambda lanes: lanes["5001"]["centerline"][0].update(x=math.nan)),
                      "points of numbers x and y, got others of lane 5001"),
    "no boundary": (MAP, lane(lambda lanes: lanes["5000"].pop("left_lane_boundary")),
                    "left_lane_boundary must be .*, got 0 of lane 5000"),
    "perhaps": (MAP, lane(lambda lanes: lanes["5001"].update(is_intersection="perhaps")),
                "is_intersection must be true or false, got \"perhaps\" of lane 5001"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_line(source: Path, damage: str, tmp_path: Path) -> None:
    """In a copy of one scene, under a new name: tables that were read are kept open."""
    file, change, said = DAMAGES[damage]
    for place in ("train/0000-1", "val/0000-0"):
        (tmp_path / place).mkdir(parents=True)
        for path in (source / place).iterdir():
            (tmp_path / place / path.name).write_bytes(path.read_bytes())
    change(tmp_path / file)
    with pytest.raises(ValueError, match=said) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / file}: ")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="val"):
        read(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="must hold scenes, got no folder"):
        read(tmp_path)


def test_a_set_has_the_steps_of_its_reader() -> None:
    given = {"task": "motion_forecasting", "reader": "argoverse2", "folder": "data/argoverse2"}
    Settings.model_validate(given | {"observed": 50, "future": 60})
    with pytest.raises(ValueError, match="observed must be 50 with reader argoverse2, got 20"):
        Settings.model_validate(given)
    with pytest.raises(ValueError, match="future must be 30 with reader lanes, got 60"):
        Settings.model_validate({"task": "motion_forecasting", "reader": "lanes", "future": 60})
    run = Settings.for_run({"task": "motion_forecasting", "observed": 50, "future": 60})
    assert (run.observed, run.future) == (50, 60)
