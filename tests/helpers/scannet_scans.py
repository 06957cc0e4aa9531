"""ScanNet's files of a scan as they are published, of a few triangles."""

import json
from pathlib import Path

import numpy as np

CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0))
LABELS = "id\traw_category\tcategory\tcount\tnyu40id\tnyu40class\n"
ROWS = (("wall", 1, "wall"), ("office chair", 5, "chair"), ("desk", 14, "desk"))


def write(folder: Path, scene: str, groups: list[dict], triangles: int = 6, seed: int = 0) -> Path:
    """Write a scan of separate triangles, each a segment: number 10, 20, ...; and its alignment.

    Args:
        folder: Gets the folder of the scan.
        scene: Its name.
        groups: Of segments, as in ``segGroups``.
        triangles: How many.
        seed: Of places and colours.

    Returns:
        The folder of the scan.
    """
    scan = folder / scene
    scan.mkdir(parents=True)
    random = np.random.default_rng(seed)
    corners = np.tile(CORNERS, (triangles, 1)) + random.uniform(-3, 3, (triangles, 3)).repeat(3, 0)
    types = [(name, "f4") for name in "xyz"]
    types += [(name, "u1") for name in ("red", "green", "blue", "alpha")]
    vertices = np.zeros(3 * triangles, types)
    for axis, name in enumerate("xyz"):
        vertices[name] = corners[:, axis]
    for name in ("red", "green", "blue"):
        vertices[name] = random.integers(0, 256, 3 * triangles)
    header = [
        "ply", "format binary_little_endian 1.0", "comment MLIB generated",
        f"element vertex {len(vertices)}", *(f"property float {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue", "alpha")),
        f"element face {triangles}", "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    faces = np.zeros(triangles, [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, np.arange(3 * triangles).reshape(-1, 3)
    mesh = "\n".join(header).encode() + b"\n" + vertices.tobytes() + faces.tobytes()
    (scan / f"{scene}_vh_clean_2.ply").write_bytes(mesh)
    segments = np.repeat(10 * np.arange(1, triangles + 1), 3).tolist()
    about = {"sceneId": scene, "params": {"kThresh": "0.01"}}
    (scan / f"{scene}_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({**about, "segIndices": segments})
    )
    (scan / f"{scene}.aggregation.json").write_text(json.dumps({**about, "segGroups": groups}))
    turned = "0 -1 0 2 1 0 0 -3 0 0 1 0.5 0 0 0 1"
    (scan / f"{scene}.txt").write_text(f"axisAlignment = {turned} \nsceneType = Office\n")
    return scan


def write_labels(path: Path) -> Path:
    """Write the table of labels."""
    lines = [f"7\t{label}\t-\t9\t{number}\t{name}\n" for label, number, name in ROWS]
    path.write_text(LABELS + "".join(lines))
    return path


def group(number: int, label: str, *segments: int) -> dict:
    """Return an entry of ``segGroups``."""
    return {"id": number, "objectId": number, "segments": list(segments), "label": label}
