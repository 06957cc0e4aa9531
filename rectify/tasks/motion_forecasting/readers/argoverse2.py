"""Argoverse 2 motion forecasting (Wilson et al., NeurIPS D&B 2021): a folder for each scene.

    train/<id>/scenario_<id>.parquet, val/<id>/...   a row for each track and step
    train/<id>/log_map_archive_<id>.json             the map around it: lane_segments
    test/<id>/...                                    the same with the observed steps alone

Each scene has 110 steps at 10 Hz, 50 of them observed, and one focal track, whose future is scored.
The public test set has no futures, so the test split is the validation set; what a model says of
the public one is written for the benchmark's server. A lane is ten points,
evenly along its centre line, or along the middle of its two boundaries where a map has no centre
lines. The maps say neither how a lane turns nor whether it is controlled.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from rectify.data.forecasts import ForecastSet, Lanes, Scene

EMBEDDED, IN_MEMORY = False, True

STEPS = {"observed": 50, "future": 60}
SPLITS = {"train": "train", "test": "val"}
UNSCORED = "test"
COLUMNS = {
    "track_id": "str", "timestep": "int64", "position_x": "float64", "position_y": "float64",
    "focal_track_id": "str", "city": "str",
}  # fmt: skip
SUBMISSION = (
    *("scenario_id", "track_id", "probability"),
    *("predicted_trajectory_x", "predicted_trajectory_y"),
)
BOUNDARIES = ("left_lane_boundary", "right_lane_boundary")
SOURCE = "Argoverse 2's motion forecasting (https://www.argoverse.org/av2.html)"
COMPLETE: dict[tuple[str, ...], int] = {("train",): 199_908, ("test",): 24_988}


def read(folder: Path, *, reach: float = 100.0) -> "dict[str, ForecastSet]":
    """Return train and test.

    Args:
        folder: Holds ``train`` and ``val``.
        reach: Metres ahead, behind and to each side within which agents and lanes are kept.

    Raises:
        ValueError: If a file is missing, damaged or not of this format.
    """
    from rectify.data.forecasts import gathered

    steps = sum(STEPS.values())
    check_present(folder, [folder / place for place in SPLITS.values()], SOURCE)
    return {
        split: gathered(_scenes(folder, place, steps), _Maps(folder), reach, STEPS["observed"])
        for split, place in SPLITS.items()
    }


def read_unscored(folder: Path, *, reach: float = 100.0) -> "ForecastSet":
    """Return the public test set, without futures; arguments and errors as of ``read``."""
    from rectify.data.forecasts import gathered

    observed = STEPS["observed"]
    check_present(folder, [folder / UNSCORED], SOURCE)
    return gathered(_scenes(folder, UNSCORED, observed), _Maps(folder), reach, observed)


def write_submission(
    path: Path, sources: Sequence[str], trajectories: "np.ndarray", probabilities: "np.ndarray"
) -> None:
    """Write forecasts as the benchmark's server takes them: a row for each trajectory.

    Args:
        path: Ends in ``.parquet``.
        sources: Of the scenes.
        trajectories: On the map (scenes, modes, steps, 2).
        probabilities: (scenes, modes).
    """
    from pandas import DataFrame

    rows = [
        (place.rpartition("/")[2], track, float(share), way[:, 0], way[:, 1])
        for source, ways, shares in zip(sources, trajectories, probabilities, strict=True)
        for place, _, track in [source.rpartition(" ")]
        for way, share in zip(ways, shares, strict=True)
    ]
    DataFrame(rows, columns=SUBMISSION).to_parquet(path, index=False)


def _scenes(folder: Path, place: str, steps: int) -> "Iterator[Scene]":
    paths = sorted(path for path in (folder / place).iterdir() if path.is_dir())
    if not paths:
        raise ValueError(f"{folder / place}: must hold scenes, got no folder. Get {SOURCE}.")
    return (
        _scene(path / f"scenario_{path.name}.parquet", f"{place}/{path.name}", steps)
        for path in paths
    )


def _scene(path: Path, place: str, steps: int) -> "Scene":
    """Return one scene, the scored track first and the others in the order of the file."""
    import numpy as np

    from rectify.data.forecasts import Scene

    rows = _rows(path)
    focal = list(dict.fromkeys(rows["focal_track_id"]))
    if len(focal) != 1:
        raise _wrong(path, "one track must be focal", f"{len(focal)}")
    order = {name: n for n, name in enumerate(dict.fromkeys([*focal, *rows["track_id"]]))}
    who, when = rows["track_id"].map(order).to_numpy(), rows["timestep"].to_numpy()
    if when.min() < 0 or when.max() >= steps:
        raise _wrong(path, f"steps must be 0 to {steps - 1}", f"{when.min()} to {when.max()}")
    seen = np.zeros((len(order), steps), bool)
    seen[who, when] = True
    if seen.sum() != len(rows):
        raise _wrong(path, "a track must have one row for a step", "two")
    if not seen[0].all():
        raise _wrong(path, f"the focal track must have {steps} steps", f"{seen[0].sum()}")
    places = np.zeros((*seen.shape, 2))
    places[who, when] = rows[["position_x", "position_y"]].to_numpy()
    return Scene(places, seen, rows["city"].iloc[0], place, f"{place} {focal[0]}")


def _rows(path: Path) -> "DataFrame":
    """Return the rows of a scene, checked one by one."""
    import numpy as np
    import pandas as pd

    from rectify.data.rows import schema

    kept = schema(path).names
    if missing := [name for name in COLUMNS if name not in kept]:
        raise _wrong(path, f"it must have the columns {', '.join(COLUMNS)}", f"no {missing[0]}")
    try:
        rows = pd.read_parquet(path, columns=list(COLUMNS)).astype(COLUMNS)
    except (ValueError, TypeError, OSError) as error:
        raise _wrong(path, "columns must have their types", f"{error}".splitlines()[0]) from None
    if rows.empty:
        raise _wrong(path, "a scene must have rows", "none")
    if not np.isfinite(rows[["position_x", "position_y"]].to_numpy()).all():
        raise _wrong(path, "each position must be finite", "another")
    return rows


class _Maps(dict):
    """The lanes around each scene, by its folder, read when asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self._folder = folder

    def __missing__(self, place: str) -> "Lanes":
        folder = self._folder / place
        return _map(folder / f"log_map_archive_{folder.name}.json")


def _map(path: Path) -> "Lanes":
    """Return the lanes of a scene's map."""
    import numpy as np

    from rectify.data.forecasts import Lanes

    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise _wrong(path, "it must be a JSON file", f"{error}".splitlines()[0]) from None
    segments = content.get("lane_segments") if isinstance(content, dict) else None
    if not isinstance(segments, dict) or not segments:
        raise _wrong(path, "a map must have lane_segments", "none")
    return Lanes(
        np.array([_centre_line(path, name, lane) for name, lane in segments.items()]),
        np.array([_flags(path, name, lane) for name, lane in segments.items()], np.uint8),
    )


def _centre_line(path: Path, name: str, lane: object) -> "np.ndarray":
    """Return ten points (10, 2) along a lane."""
    if not isinstance(lane, dict):
        raise _wrong(path, "a lane must be an object", f"another thing as lane {name}")
    if "centerline" in lane:
        return _evenly(_points(path, name, lane, "centerline"))
    left, right = (_evenly(_points(path, name, lane, key)) for key in BOUNDARIES)
    return (left + right) / 2


def _points(path: Path, name: str, lane: Mapping, key: str) -> "np.ndarray":
    import numpy as np

    try:
        points = np.array([(point["x"], point["y"]) for point in lane[key]], np.float64)
    except (KeyError, TypeError, ValueError):
        points = np.empty((0, 2))
    if len(points) < 2 or not np.isfinite(points).all():
        got = f"{len(points)} of lane {name}" if len(points) < 2 else f"others of lane {name}"
        raise _wrong(path, f"{key} must be two or more points of numbers x and y", got)
    return points


def _evenly(points: "np.ndarray") -> "np.ndarray":
    """Return ten points at equal distances along a line."""
    import numpy as np

    from rectify.data.forecasts import POINTS

    along = np.concatenate([[0], np.linalg.norm(np.diff(points, axis=0), axis=1).cumsum()])
    places = np.linspace(0, along[-1], POINTS)
    return np.stack([np.interp(places, along, points[:, axis]) for axis in (0, 1)], 1)


def _flags(path: Path, name: str, lane: Mapping) -> list[int]:
    crossing = lane.get("is_intersection")
    if not isinstance(crossing, bool):
        got = f"{json.dumps(crossing)} of lane {name}"
        raise _wrong(path, "is_intersection must be true or false", got)
    return [0, int(crossing), 0]


def _wrong(path: Path, rule: str, got: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {SOURCE} again.")
