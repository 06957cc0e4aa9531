"""Drawn traffic in the files of Argoverse 1 and 2.

1: a CSV for each scene, an XML map for each city. 2: a parquet table and a JSON map for each scene.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pandas import DataFrame

from rectify.data.forecasts import Lanes, Scene
from rectify.tasks.motion_forecasting.readers import argoverse2
from rectify.tasks.motion_forecasting.readers.argoverse1 import MAPS, SPLITS

HEADER = "TIMESTAMP,TRACK_ID,OBJECT_TYPE,X,Y,CITY_NAME"
TURNS = ("NONE", "LEFT", "RIGHT")


def csv_of(scene: Scene, start: float = 315966253.0) -> str:
    """Return a scene's file: rows by time, the scored track not the first of a step."""
    lines = [HEADER]
    for step in range(scene.seen.shape[1]):
        for agent in reversed(range(len(scene.tracks))):
            if scene.seen[agent, step]:
                x, y = scene.tracks[agent, step].tolist()
                kind = "AGENT" if agent == 0 else "AV" if agent == 1 else "OTHERS"
                name = f"00000000-0000-0000-0000-{agent:012d}"
                lines.append(f"{start + step * 0.1!r},{name},{kind},{x!r},{y!r},{scene.city}")
    return "\n".join(lines) + "\n"


def xml_of(found: Lanes) -> str:
    """Return a map's file; the first lane has a point less, and there are heights and more tags."""
    nodes, ways = [], []
    for lane, (points, flags) in enumerate(zip(found.points, found.flags, strict=True)):
        kept = points[:9] if lane == 0 else points
        refs = []
        for number, (x, y) in enumerate(kept.tolist()):
            name, height = f"{lane}{number:02d}", ' height="3.5"' if number == 0 else ""
            nodes.append(f'  <node id="{name}" x="{x!r}" y="{y!r}"{height} />')
            refs.append(f'    <nd ref="{name}" />')
        turn, crossing, control = flags.tolist()
        tags = {
            "has_traffic_control": bool(control),
            "turn_direction": TURNS[turn],
            "is_intersection": bool(crossing),
            "l_neighbor_id": None,
            "r_neighbor_id": 12,
            "predecessor": 4,
            "colour": "of no meaning",
        }
        body = [f'    <tag k="{key}" v="{value}" />' for key, value in tags.items()]
        ways.append("\n".join([f'  <way lane_id="{lane}">', *body, *refs, "  </way>"]))
    return "\n".join(['<?xml version="1.0"?>', "<ArgoverseVectorMap>", *nodes, *ways,
                      "</ArgoverseVectorMap>", ""])  # fmt: skip


def write(folder: Path, splits: dict[str, tuple[Sequence[Scene], dict[str, Lanes]]]) -> Path:
    """Write splits as ``rectify.demo.lanes.drawn`` gives them."""
    (folder / "map_files").mkdir(parents=True)
    for split, (scenes, maps) in splits.items():
        place = folder / SPLITS[split] / "data"
        place.mkdir(parents=True)
        for number, scene in enumerate(scenes):
            (place / f"{number + 1}.csv").write_text(csv_of(scene))
        for city, found in maps.items():
            (folder / "map_files" / MAPS[city]).write_text(xml_of(found))
    return folder


def longer(scene: Scene, steps: int = 110) -> Scene:
    """Return a scene at more steps: slower, and seen where it was."""
    old = np.linspace(0, 1, scene.seen.shape[1])
    new = np.linspace(0, 1, steps)
    nearest = np.abs(new[:, None] - old).argmin(1)
    seen = scene.seen[:, nearest]
    tracks = scene.tracks[:, nearest]
    tracks[0] = np.stack([np.interp(new, old, scene.tracks[0, :, axis]) for axis in (0, 1)], 1)
    return dataclasses.replace(scene, tracks=tracks, seen=seen)


def rows_of(scene: Scene, name: str) -> DataFrame:
    """Return the table of a scene of Argoverse 2: rows by track, the focal track the last."""
    parts = [
        {
            "observed": step < 50,
            "track_id": f"{1000 + agent}",
            "object_type": "vehicle",
            "object_category": 3 if agent == 0 else 1,
            "timestep": step,
            "position_x": float(scene.tracks[agent, step, 0]),
            "position_y": float(scene.tracks[agent, step, 1]),
            "heading": 0.5,
            "velocity_x": 1.0,
            "velocity_y": 2.0,
        }
        for agent in reversed(range(len(scene.tracks)))
        for step in np.flatnonzero(scene.seen[agent]).tolist()
    ]
    fixed = {"scenario_id": name, "start_timestamp": 0, "end_timestamp": 10_900_000_000,
             "num_timestamps": 110, "focal_track_id": "1000", "city": scene.city, "map_id": 7,
             "slice_id": "a"}  # fmt: skip
    return DataFrame(parts).assign(**fixed)


def json_of(found: Lanes) -> dict:
    """Return a map of Argoverse 2; the first lane has boundaries of two and three points alone."""

    def points(line: np.ndarray) -> list[dict[str, float]]:
        return [{"x": x, "y": y, "z": 3.5} for x, y in line.tolist()]

    segments = {}
    for lane, (line, flags) in enumerate(zip(found.points, found.flags, strict=True)):
        segments[f"{5000 + lane}"] = {
            "id": 5000 + lane,
            "is_intersection": bool(flags[1]),
            "lane_type": "VEHICLE",
            "left_lane_mark_type": "NONE",
            "left_lane_boundary": points(line[[0, 9]] + [0.0, 1.8]),
            "right_lane_boundary": points(line[[0, 5, 9]] - [0.0, 1.8]),
            "left_neighbor_id": None,
            "predecessors": [4],
            **({"centerline": points(line)} if lane else {}),
        }
    return {"lane_segments": segments, "drivable_areas": {}, "pedestrian_crossings": {}}


def write_argoverse2(
    folder: Path, splits: dict[str, tuple[Sequence[Scene], dict[str, Lanes]]]
) -> Path:
    """Write splits of scenes with 110 steps, or ``unscored`` ones with 50, as Argoverse 2 is."""
    for split, (scenes, maps) in splits.items():
        for number, scene in enumerate(scenes):
            name = f"0000-{number}"
            place = folder / (argoverse2.SPLITS | {"unscored": argoverse2.UNSCORED})[split] / name
            place.mkdir(parents=True)
            rows_of(scene, name).to_parquet(place / f"scenario_{name}.parquet", index=False)
            text = json.dumps(json_of(maps[scene.map]))
            (place / f"log_map_archive_{name}.json").write_text(text)
    return folder
