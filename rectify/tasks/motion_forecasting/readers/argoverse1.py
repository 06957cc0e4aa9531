"""Argoverse 1 motion forecasting v1.1 (Chang et al., CVPR 2019): a CSV per scene, a map per city.

    train/data/<n>.csv, val/data/<n>.csv, test_obs/data/<n>.csv
                                                  TIMESTAMP,TRACK_ID,OBJECT_TYPE,X,Y,CITY_NAME
    map_files/pruned_argoverse_{MIA_10316,PIT_10314}_vector_map.xml

Each scene has 50 steps at 10 Hz, and one track of type AGENT, whose future is scored. The public
test set has no futures, so the test split is the validation set, as in published tables; what a
model says of the public one is written for the benchmark's server. Lanes with fewer than ten
points keep their last one for the rest.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    import numpy as np
    from pandas import DataFrame

    from rectify.data.forecasts import ForecastSet, Lanes, Scene

EMBEDDED, IN_MEMORY = False, True
STEPS = {"observed": 20, "future": 30}

SPLITS = {"train": "train", "test": "val"}
UNSCORED = "test_obs"
MAPS = {
    "MIA": "pruned_argoverse_MIA_10316_vector_map.xml",
    "PIT": "pruned_argoverse_PIT_10314_vector_map.xml",
}
SCORED = "AGENT"
SUBMISSION = "argoverse_forecasting"
COLUMNS = {
    "TIMESTAMP": "float64", "TRACK_ID": "str", "OBJECT_TYPE": "str", "X": "float64",
    "Y": "float64", "CITY_NAME": "str",
}  # fmt: skip
TURNS = {"NONE": 0, "LEFT": 1, "RIGHT": 2}
TRUTH = {"False": 0, "True": 1}
TAGS = {"turn_direction": TURNS, "is_intersection": TRUTH, "has_traffic_control": TRUTH}
"""Of a lane, in the order of its flags; others are ignored."""
SOURCE = "Argoverse 1's motion forecasting v1.1 and HD maps (https://www.argoverse.org/av1.html)"
COMPLETE: dict[tuple[str, ...], int] = {("train",): 205_942, ("test",): 39_472}


def read(folder: Path, *, reach: float = 100.0) -> "dict[str, ForecastSet]":
    """Return train and test.

    Args:
        folder: Holds ``train``, ``val`` and ``map_files``.
        reach: Metres ahead, behind and to each side within which agents and lanes are kept.

    Raises:
        ValueError: If a file is missing, damaged or not of this format.
    """
    from rectify.data.forecasts import gathered

    places = [folder / place / "data" for place in SPLITS.values()]
    check_present(folder, [*places, *_files(folder).values()], SOURCE)
    maps, steps = _maps(folder), sum(STEPS.values())
    return {
        split: gathered(_scenes(folder, f"{place}/data", steps), maps, reach)
        for split, place in SPLITS.items()
    }


def read_unscored(folder: Path, *, reach: float = 100.0) -> "ForecastSet":
    """Return the public test set, without futures; arguments and errors as of ``read``."""
    from rectify.data.forecasts import gathered

    place = f"{UNSCORED}/data"
    check_present(folder, [folder / place, *_files(folder).values()], SOURCE)
    observed = STEPS["observed"]
    return gathered(_scenes(folder, place, observed), _maps(folder), reach, observed)


def write_submission(
    path: Path, sources: Sequence[str], trajectories: "np.ndarray", probabilities: "np.ndarray"
) -> None:
    """Write forecasts as the benchmark's server takes them: a row for each point.

    Args:
        path: Ends in ``.h5``.
        sources: Of the scenes.
        trajectories: On the map (scenes, modes, steps, 2).
        probabilities: (scenes, modes).
    """
    import h5py
    import numpy as np

    scenes, modes, steps, _ = trajectories.shape
    numbers = np.array([int(Path(source).stem) for source in sources])
    rows = np.empty((scenes, modes, steps, 4))
    rows[..., 0] = numbers[:, None, None]
    rows[..., 1:3] = trajectories
    rows[..., 3] = probabilities[..., None]
    with h5py.File(path, "w") as file:
        file.create_dataset(SUBMISSION, data=rows.reshape(-1, 4), compression="gzip")


def _files(folder: Path) -> dict[str, Path]:
    return {city: folder / "map_files" / name for city, name in MAPS.items()}


def _maps(folder: Path) -> "dict[str, Lanes]":
    return {city: _map(path) for city, path in _files(folder).items()}


def _scenes(folder: Path, place: str, steps: int) -> "Iterator[Scene]":
    paths = sorted((folder / place).glob("*.csv"), key=lambda path: (len(path.stem), path.stem))
    if not paths:
        raise ValueError(f"{folder / place}: must hold scenes, got no .csv file. Get {SOURCE}.")
    return (_scene(path, f"{place}/{path.name}", steps) for path in paths)


def _scene(path: Path, source: str, steps: int) -> "Scene":
    """Return one scene, the scored track first and the others in the order of the file."""
    import numpy as np

    from rectify.data.forecasts import Scene

    rows = _rows(path)
    times = np.unique(rows["TIMESTAMP"])
    if len(times) != steps:
        raise _wrong(path, f"a scene must have {steps} steps", f"{len(times)}")
    tracks = list(dict.fromkeys(rows["TRACK_ID"]))
    scored = list(dict.fromkeys(rows["TRACK_ID"][rows["OBJECT_TYPE"] == SCORED]))
    if len(scored) != 1:
        raise _wrong(path, f"one track must be of type {SCORED}", f"{len(scored)}")
    order = {name: n for n, name in enumerate(dict.fromkeys([*scored, *tracks]))}
    who = rows["TRACK_ID"].map(order).to_numpy()
    when = np.searchsorted(times, rows["TIMESTAMP"])
    seen = np.zeros((len(order), steps), bool)
    seen[who, when] = True
    if seen.sum() != len(rows):
        raise _wrong(path, "a track must have one row for a step", "two")
    if not seen[0].all():
        raise _wrong(path, f"the {SCORED} must have {steps} steps", f"{seen[0].sum()}")
    places = np.zeros((*seen.shape, 2))
    places[who, when] = rows[["X", "Y"]].to_numpy()
    city = rows["CITY_NAME"].iloc[0]
    return Scene(places, seen, city, city, source)


def _rows(path: Path) -> "DataFrame":
    """Return the rows of a file, checked one by one."""
    import numpy as np
    import pandas as pd

    try:
        rows = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)
    except (ValueError, OSError) as error:  # a parser's error is a ValueError
        raise _wrong(path, "it must be a CSV file", f"{error}".splitlines()[0]) from None
    if missing := [name for name in COLUMNS if name not in rows]:
        raise _wrong(path, f"it must have the columns {', '.join(COLUMNS)}", f"no {missing[0]}")
    numbers = rows[["TIMESTAMP", "X", "Y"]].to_numpy()
    if not np.isfinite(numbers).all():
        raise _wrong(path, "each number must be finite", "another")
    cities = list(dict.fromkeys(rows["CITY_NAME"]))
    if len(cities) != 1 or cities[0] not in MAPS:
        raise _wrong(path, f"one city must be named, {' or '.join(MAPS)}", ", ".join(cities[:3]))
    return rows


def _map(path: Path) -> "Lanes":
    """Return the lanes of a city's map."""
    import numpy as np

    from rectify.data.forecasts import Lanes

    content = path.read_bytes()
    if b"<!" in content.replace(b"<!--", b""):  # entities could grow without end
        raise _wrong(path, "a map must have no DOCTYPE", "one")
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise _wrong(path, "it must be an XML file", f"{error}") from None
    nodes = {node.get("id"): _point(path, node) for node in root.iter("node")}
    ways = [way for way in root.iter("way") if way.get("lane_id") is not None]
    if not ways:
        raise _wrong(path, "a map must have lanes", "none")
    return Lanes(
        np.array([_line(path, way, nodes) for way in ways]),
        np.array([_flags(path, way) for way in ways], np.uint8),
    )


def _point(path: Path, node: ElementTree.Element) -> tuple[float, float]:
    import math

    try:
        x, y = float(node.get("x", "")), float(node.get("y", ""))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        got = f"{node.get('x')} and {node.get('y')} of node {node.get('id')}"
        raise _wrong(path, "x and y of a node must be numbers", got)
    return x, y


def _line(
    path: Path, way: ElementTree.Element, nodes: dict[str | None, tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return the ten points of a lane."""
    from rectify.data.forecasts import POINTS

    lane, names = way.get("lane_id"), [one.get("ref") for one in way.iter("nd")]
    if unknown := [name for name in names if name not in nodes]:
        raise _wrong(path, "each node of a lane must be there", f"no {unknown[0]} of lane {lane}")
    if not 2 <= len(names) <= POINTS:
        raise _wrong(path, f"a lane must have 2 to {POINTS} nodes", f"{len(names)} of lane {lane}")
    return [nodes[name] for name in names + names[-1:] * (POINTS - len(names))]


def _flags(path: Path, way: ElementTree.Element) -> list[int]:
    tags = {tag.get("k"): tag.get("v") for tag in way.iter("tag")}
    for name, known in TAGS.items():
        if tags.get(name) not in known:
            got = f"{tags.get(name, 'none')} of lane {way.get('lane_id')}"
            raise _wrong(path, f"{name} must be {', '.join(known)}", got)
    return [known[tags[name]] for name, known in TAGS.items()]


def _wrong(path: Path, rule: str, got: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {SOURCE} again.")
