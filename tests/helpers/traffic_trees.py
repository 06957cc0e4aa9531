"""Drawn traffic in the files of Argoverse 1: a CSV for each scene, an XML map for each city."""

from collections.abc import Sequence
from pathlib import Path

from rectify.data.forecasts import Lanes, Scene
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
