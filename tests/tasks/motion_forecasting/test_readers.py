"""Argoverse 1 as it is published, from drawn traffic; and one line for each damage."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pandas import DataFrame

from rectify.data.forecasts import gathered, listing_of
from rectify.demo.lanes import drawn
from rectify.tasks.motion_forecasting.readers import argoverse1
from rectify.tasks.motion_forecasting.readers.argoverse1 import MAPS, read
from rectify.tasks.readers import check_complete
from tests.helpers import traffic_trees
from tests.helpers.damages import refused

SIZES = {"seed": 0, "train_items": 11, "test_items": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traffic_trees.write(tmp_path_factory.mktemp("argoverse"), drawn(**SIZES))


@pytest.mark.slow
def test_the_files_give_the_scenes_that_were_written(source: Path) -> None:
    """Bit by bit, but for the first lane, whose last point is missing and so is kept twice."""
    found = read(source)
    for split, (scenes, maps) in drawn(**SIZES).items():
        ((city, lanes),) = maps.items()
        lanes.points[0, 9] = lanes.points[0, 8]
        scenes = [  # agents in the order in which the file names them, the scored one first
            dataclasses.replace(one, tracks=one.tracks[order], seen=one.seen[order])
            for one in scenes
            for order in [_order(one.seen)]
        ]
        expected = gathered(scenes, {city: lanes})
        for name in ("tracks", "seen", "agents", "origins", "headings", "points", "flags", "near"):
            assert torch.equal(getattr(found[split], name), getattr(expected, name)), name
        assert found[split].cities == expected.cities
    assert found["train"].sources[9:] == ("train/data/10.csv", "train/data/11.csv")


def _order(seen: np.ndarray) -> list[int]:
    """Return agents by the step in which they appear first, the last of a step first."""
    others = sorted(range(1, len(seen)), key=lambda agent: (seen[agent].argmax(), -agent))
    return [0, *others]


def test_a_smaller_reach_keeps_less(source: Path) -> None:
    whole, near = read(source)["train"], read(source, reach=30.0)["train"]
    batch = near.batch(torch.arange(len(near)))
    assert batch["lanes"].abs().max() <= 30.001
    assert batch["tracks"][:, :, 19].abs().max() <= 30.001
    assert near.lanes.sum() < whole.lanes.sum()
    assert near.agents.sum() < whole.agents.sum()


CSV, XML = "train/data/3.csv", f"map_files/{MAPS['PIT']}"


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda text: "\n".join(change(text.splitlines())) + "\n"


def times(text: str) -> list[str]:
    return list(dict.fromkeys(line.split(",")[0] for line in text.splitlines()[1:]))


def without_steps(text: str, kept: slice) -> str:
    chosen = {*times(text)[kept], "TIMESTAMP"}
    return lines(lambda rows: [row for row in rows if row.split(",")[0] in chosen])(text)


def without_a_step_of_the_agent(text: str) -> str:
    step = times(text)[7]
    return lines(
        lambda rows: [row for row in rows if not (row.startswith(step) and ",AGENT," in row)]
    )(text)


DAMAGES = {
    "49 steps": (CSV, lambda t: without_steps(t, slice(49)), "must have 50 steps, got 49"),
    "a test file": (CSV, lambda t: without_steps(t, slice(20)), "must have 50 steps, got 20"),
    "a gap": (CSV, without_a_step_of_the_agent, "the AGENT must have 50 steps, got 49"),
    "two agents": (CSV, lambda t: t.replace("AV", "AGENT").replace("OTHERS", "AGENT"),
                   "one track must be of type AGENT, got [2-9]"),
    "no agent": (CSV, lambda t: t.replace("AGENT", "OTHERS"), "type AGENT, got 0"),
    "a row twice": (CSV, lines(lambda rows: [*rows, rows[-1]]), "one row for a step, got two"),
    "another city": (CSV, lambda t: t.replace("PIT", "NYC"), "MIA or PIT, got NYC"),
    "no column": (CSV, lambda t: t.replace("CITY_NAME", "TOWN"), "got no CITY_NAME"),
    "a word": (CSV, lines(lambda rows: [*rows, "a,b,OTHERS,x,y,PIT"]), "must be a CSV file, got"),
    "no number": (CSV, lines(lambda rows: [*rows, "1.0,b,OTHERS,inf,0.0,PIT"]),
                  "each number must be finite"),
    "nothing": (CSV, lambda t: "", "must be a CSV file, got No columns"),
    "a doctype": (XML, lambda t: t.replace("<Argo", '<!DOCTYPE a [<!ENTITY b "c">]><Argo', 1),
                  "must have no DOCTYPE, got one"),
    "cut off": (XML, lambda t: t[: len(t) // 2], "must be an XML file, got"),
    "no lanes": (XML, lambda t: "<ArgoverseVectorMap />", "must have lanes, got none"),
    "a lost node": (XML, lambda t: t.replace('<nd ref="100"', '<nd ref="no"'),
                    "got no no of lane 1"),
    "a turn": (XML, lambda t: t.replace('"LEFT"', '"UP"'),
               "turn_direction must be NONE, LEFT, RIGHT, got UP of lane"),
    "a long lane": (XML, lambda t: t.replace('<nd ref="100" />', '<nd ref="100" />' * 3),
                    "2 to 10 nodes, got 12 of lane 1"),
    "a node": (XML, lambda t: t.replace('x="', 'x="a', 1), "x and y of a node must be numbers"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_one_line(source: Path, damage: str) -> None:
    file, change, said = DAMAGES[damage]
    path, before = source / file, (source / file).read_text()
    assert change(before) != before
    with refused(path, said):
        path.write_text(change(before))
        read(source)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train/data") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    for place in ("train", "val"):
        (tmp_path / place / "data").mkdir(parents=True)
    (tmp_path / "map_files").mkdir()
    for name in MAPS.values():
        (tmp_path / "map_files" / name).write_text(
            traffic_trees.xml_of(next(iter(drawn(**SIZES)["test"][1].values())))
        )
    with pytest.raises(ValueError, match=r"must hold scenes, got no \.csv file"):
        read(tmp_path)


def test_a_full_set_has_the_published_counts(source: Path) -> None:
    listing = listing_of(read(source))
    with pytest.raises(ValueError, match="205,942 items in train, got 11"):
        check_complete("argoverse1", argoverse1, listing)
    rows = [("train", n) for n in range(205_942)] + [("test", n) for n in range(39_472)]
    check_complete("argoverse1", argoverse1, DataFrame(rows, columns=["split", "source"]))
