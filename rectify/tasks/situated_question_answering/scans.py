"""From ScanNet's scans as they are published to the arrays that are read: a choice with a seed.

    <scene>_vh_clean_2.ply                     the mesh: places, colours, triangles
    <scene>_vh_clean_2.0.010000.segs.json      segIndices, the segment of each vertex
    <scene>.aggregation.json                   segGroups, the objects: objectId, label, segments
    <scene>.txt                                its line axisAlignment
    scannetv2-labels.combined.tsv              the number of NYU40 of each label

As in the preprocessing of VoteNet, ScanRefer, ScanQA and SQA3D, an object's box is the extent of
all of its vertices, and of vertices at most 50,000 are kept, of which none is there twice; but each
scene has its own draw, whatever scenes there are besides. Where groups share a segment, the last
one of the file has it. A normal is the mean of those of the triangles around.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt32

from rectify.data.situations import NO_OBJECT
from rectify.results.files import atomic_path, check_no_pointer, read_json
from rectify.runtime import seed_for
from rectify.tasks.situated_question_answering.readers.sqa3d import alignment

if TYPE_CHECKING:
    from plyfile import PlyData

LABEL, NUMBER = "raw_category", "nyu40id"
"""Columns of the labels' table."""
PLACE, COLOUR = ("x", "y", "z"), ("red", "green", "blue")
SOURCE = "the scans of ScanNet (http://www.scan-net.org)"
LARGEST = 40  # of NYU40

Array = np.ndarray


def label_numbers(path: Path) -> dict[str, int]:
    """Return the number in NYU40 of each label.

    Raises:
        ValueError: If the file is missing or no such table.
    """
    check_no_pointer(path)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, ValueError, csv.Error) as error:
        raise _wrong(path, "it must be a table", type(error).__name__) from None
    if not rows or not {LABEL, NUMBER} <= rows[0].keys():
        got = f"{len(rows)} rows with {', '.join(map(str, rows[0]))}" if rows else "no rows"
        raise _wrong(path, f"it must have the columns {LABEL} and {NUMBER}", got)
    numbers = {row[LABEL]: row[NUMBER] for row in rows}
    for label, number in numbers.items():
        if not (number or "").isdecimal() or not 0 <= int(number) <= LARGEST:
            raise _wrong(path, f"{NUMBER} must lie in 0..{LARGEST}", f"{number!r} of {label!r}")
    return {label: int(number) for label, number in numbers.items()}


def converted(
    folder: Path, labels: Mapping[str, int], most: int, seed: int
) -> dict[str, np.ndarray]:
    """Return the arrays of one scan, by the names of the reader's ``PARTS``.

    Args:
        folder: Of the scan, named as its scene.
        labels: Numbers of NYU40.
        most: Vertices that are kept at most.
        seed: Of the choice.

    Raises:
        ValueError: If a file is missing, damaged or not about this mesh.
    """
    scene = folder.name
    vertices, faces = _mesh(folder / f"{scene}_vh_clean_2.ply")
    kinds, objects = _objects(folder, labels, len(vertices))
    matrix = alignment(folder / f"{scene}.txt")
    aligned = vertices[:, :3].astype(float) @ matrix[:3, :3].T + matrix[:3, 3]
    boxes = _boxes(aligned, objects, kinds)
    plain = np.hstack([vertices, normals(vertices[:, :3], faces)])
    parts = {
        "vert": plain,
        "aligned_vert": np.hstack([aligned, plain[:, 3:]]).astype(np.float32),
        "sem_label": kinds,
        "ins_label": objects,
    }
    random = np.random.default_rng(seed_for(seed, "scan", scene))
    if len(vertices) > most:
        chosen = np.sort(random.choice(len(vertices), most, replace=False))
        parts = {name: array[chosen] for name, array in parts.items()}
    return {**parts, "aligned_bbox": boxes}


def write(folder: Path, scene: str, parts: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of one scan, one file each."""
    for name, array in parts.items():
        with atomic_path(folder / f"{scene}_{name}.npy") as temporary:
            np.save(temporary, array)


def normals(
    places: Float32[Array, "vertices 3"], faces: Int64[Array, "faces 3"]
) -> Float32[Array, "vertices 3"]:
    """Return the mean normal of the triangles around each vertex, of length 1, or 0 without any."""
    corners = places[faces].astype(float)
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    sums = np.zeros(places.shape)
    for corner in faces.T:
        np.add.at(sums, corner, _unit(across))
    return _unit(sums).astype(np.float32)


def _unit(vectors: Float64[Array, "rows 3"]) -> Float64[Array, "rows 3"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _mesh(path: Path) -> tuple[Float32[Array, "vertices 6"], Int64[Array, "faces 3"]]:
    """Return place and colour of each vertex, and the vertices of each triangle."""
    mesh = _ply(path)
    try:
        own = mesh["vertex"].data
        vertices = np.column_stack([own[name] for name in (*PLACE, *COLOUR)]).astype(np.float32)
        rows = list(mesh["face"].data["vertex_indices"])
    except (KeyError, ValueError):
        rule = f"vertices must have {', '.join((*PLACE, *COLOUR))}, and faces vertex_indices"
        got = "; ".join(" ".join((one.name, *(own.name for own in one.properties))) for one in mesh)
        raise _wrong(path, rule, f"{got:.80}") from None
    if not len(vertices) or not np.isfinite(vertices).all():
        raise _wrong(path, "its vertices must be finite", f"{len(vertices)} vertices")
    if any(len(row) != len(PLACE) for row in rows):
        raise _wrong(path, "its faces must be triangles", "others")
    faces = np.array(rows, np.int64).reshape(-1, 3)
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(vertices):
        got = f"{faces.min()} to {faces.max()}"
        raise _wrong(path, f"its faces must be of the {len(vertices)} vertices", got)
    return vertices, faces


def _ply(path: Path) -> "PlyData":
    from plyfile import PlyData, PlyParseError

    check_no_pointer(path)
    try:
        return PlyData.read(path)
    except (OSError, PlyParseError, ValueError) as error:
        got = getattr(error, "strerror", None) or f"{error}".partition("\n")[0].rstrip(".")
        raise _wrong(path, "it must be an intact mesh", got) from None


def _objects(
    folder: Path, labels: Mapping[str, int], vertices: int
) -> tuple[UInt32[Array, " vertices"], UInt32[Array, " vertices"]]:
    """Return kind and object of each vertex, counted from 1; 0 where nobody said."""
    scene = folder.name
    path = folder / f"{scene}_vh_clean_2.0.010000.segs.json"
    segments = np.array(_listed(path, "segIndices", int))
    if len(segments) != vertices:
        got = f"{len(segments)} for {vertices} vertices"
        raise _wrong(path, "segIndices must have a segment for each vertex", got)
    known = set(segments.tolist())
    kinds, objects = np.zeros(vertices, np.uint32), np.zeros(vertices, np.uint32)
    path = folder / f"{scene}.aggregation.json"
    for group in _listed(path, "segGroups", dict):
        number, label, own = (group.get(name) for name in ("objectId", "label", "segments"))
        if type(number) is not int or not 0 <= number < 2**15 - 1 or not isinstance(own, list):
            raise _wrong(path, "a group must have objectId and segments", f"{group!r:.60}")
        if label not in labels:
            got = f"{label!r:.40} of object {number}"
            raise _wrong(path, f"label must be a {LABEL} of the labels' table", got)
        missing = [one for one in own if type(one) is not int or one not in known]
        if missing:
            got = f"{missing[0]!r:.40} of object {number}"
            raise _wrong(path, "segments must be those of the mesh", got)
        its = np.isin(segments, own)
        kinds[its], objects[its] = labels[label], number + 1
    return kinds, objects


def _listed(path: Path, key: str, kind: type) -> list:
    """Return a list of a JSON file, all entries of one type."""
    content = read_json(path)
    listed = content.get(key) if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(type(one) is kind for one in listed):
        raise _wrong(path, f"{key} must be a list, each of type {kind.__name__}", f"{listed!r:.40}")
    return listed


def _boxes(
    places: Float64[Array, "vertices 3"],
    objects: UInt32[Array, " vertices"],
    kinds: UInt32[Array, " vertices"],
) -> Float64[Array, "boxes 8"]:
    """Return centre, size, kind and number, from 0, of each object, but walls and their like."""
    made = []
    for number in range(1, int(objects.max()) + 1):
        own = objects == number
        if not own.any() or (kind := int(kinds[own][0])) in (0, *NO_OBJECT):
            continue
        low, high = places[own].min(0), places[own].max(0)
        made.append([*(low + high) / 2, *high - low, kind, number - 1])
    return np.array(made, float).reshape(-1, 8)


def _wrong(path: Path, rule: str, got: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {SOURCE} again.")
