"""ScanNet's scans to arrays: against the mesh by hand; one line for each damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from rectify.commands import convert_scans
from rectify.data.situations import Told
from rectify.demo.rooms import rooms
from rectify.tasks.situated_question_answering import scans
from rectify.tasks.situated_question_answering.readers.sqa3d import PARTS, read
from tests.helpers import room_trees
from tests.helpers.damages import refused
from tests.helpers.scannet_scans import group, write, write_labels
from tests.helpers.training import run

SCENE = "scene0001_00"
GROUPS = [
    group(0, "office chair", 10, 20), group(1, "wall", 30), group(2, "desk", 40),
    group(3, "desk", 20), group(5, "office chair", 60),
]  # fmt: skip
"""The fourth takes a segment of the first; number 4 is not there, and nobody said what 50 is."""
KINDS = [5, 14, 1, 14, 0, 5]
NUMBERS = [1, 4, 2, 3, 0, 6]
LABELS = {"wall": 1, "office chair": 5, "desk": 14}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write(tmp_path / "scans", SCENE, GROUPS)


def corners(scan: Path) -> np.ndarray:
    """The vertices, 16 bytes each behind the header."""
    mesh = (scan / f"{SCENE}_vh_clean_2.ply").read_bytes().partition(b"end_header\n")[2]
    rows = [mesh[16 * place : 16 * (place + 1)] for place in range(18)]
    return np.array([[*np.frombuffer(row[:12], "<f4"), *row[12:15]] for row in rows])


def test_arrays_are_those_of_the_mesh_by_hand(scan: Path) -> None:
    found, mesh = scans.converted(scan, LABELS, 99, 0), corners(scan)
    assert sorted(found) == sorted(PARTS)
    assert found["sem_label"].tolist() == np.repeat(KINDS, 3).tolist()
    assert found["ins_label"].tolist() == np.repeat(NUMBERS, 3).tolist()
    assert np.array_equal(found["vert"][:, :6], mesh.astype(np.float32))
    assert np.array_equal(found["vert"][:, 6:], np.tile([0, 0, 1], (18, 1)))  # each lies flat
    aligned = [[2 - y, x - 3, z + 0.5] for x, y, z in mesh[:, :3]]
    assert np.allclose(found["aligned_vert"][:, :3], aligned, atol=1e-5)
    assert np.array_equal(found["aligned_vert"][:, 3:], found["vert"][:, 3:])
    boxes = {int(box[7]): box for box in found["aligned_bbox"]}
    assert list(boxes) == [0, 2, 3, 5]  # no wall
    for number, box in boxes.items():
        own = np.array(aligned).reshape(6, 3, 3)[NUMBERS.index(number + 1)]
        assert np.allclose(box[:3], (own.max(0) + own.min(0)) / 2, atol=1e-5)
        assert np.allclose(box[3:6], own.max(0) - own.min(0), atol=1e-5)
        assert box[6] == KINDS[NUMBERS.index(number + 1)]


def test_fewer_points_are_different_ones_and_boxes_are_of_all(scan: Path) -> None:
    every = scans.converted(scan, LABELS, 18, 0)
    some, same, other = (scans.converted(scan, LABELS, 7, seed) for seed in (0, 0, 1))
    places = [np.flatnonzero((every["vert"] == row).all(1))[0] for row in some["vert"]]
    assert len(set(places)) == 7
    for name in ("aligned_vert", "sem_label", "ins_label"):
        assert np.array_equal(some[name], every[name][places])
    assert np.array_equal(some["aligned_bbox"], every["aligned_bbox"])
    assert np.array_equal(some["vert"], same["vert"])
    assert not np.array_equal(some["vert"], other["vert"])


def test_a_normal_is_the_mean_of_its_triangles() -> None:
    """A roof: at the ridge between two slopes, on a slope of its own, and away from all."""
    places = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 0], [0, -1, 0], [9, 9, 9]], np.float32)
    found = scans.normals(places, np.array([[0, 1, 2], [1, 0, 3]]))
    half = np.sqrt(0.5)
    expected = [[0, 0, 1], [0, 0, 1], [0, half, half], [0, -half, half], [0, 0, 0]]
    assert np.allclose(found, expected, atol=1e-6)


def test_the_command_writes_what_the_reader_reads(tmp_path: Path, scan: Path) -> None:
    told = rooms(seed=0, train_rooms=1, test_rooms=1, stored=20)
    source = room_trees.write(tmp_path, told)
    names = [one.rooms[0].name for one in told.values()]
    for name in names:
        write(tmp_path / "meshes", name, GROUPS)
        (source / "scans" / name / f"{name}.txt").write_text("sceneType = Office\n")
    output = source / room_trees.SCENES
    keys = {"scans": tmp_path / "meshes", "labels": write_labels(tmp_path / "labels.tsv")}
    run(convert_scans, **keys, points=12, output=output)
    found: dict[str, Told] = read(source)
    for split, name in zip(told, names, strict=True):
        room = found[split].rooms[0]
        assert room.points.shape == (12, 3)
        assert np.array_equal(room.points, np.load(output / f"{name}_aligned_vert.npy")[:, :3])
        assert sorted(room.box_kinds) == [5, 5, 14, 14]


SEGMENTS, OBJECTS = "_vh_clean_2.0.010000.segs.json", ".aggregation.json"
DAMAGES = {
    "no list": (OBJECTS, {"segGroups": None}, "segGroups must be a list, .* got None"),
    "label": (OBJECTS, {"segGroups": [group(0, "sofa", 10)]}, "label must .* 'sofa' of object 0"),
    "segment": (
        OBJECTS,
        {"segGroups": [group(2, "desk", 11)]},
        "be those of the mesh, got 11 .* 2",
    ),
    "number": (OBJECTS, {"segGroups": [group(-1, "desk", 10)]}, "must have objectId .* -1"),
    "short": (SEGMENTS, {"segIndices": [10] * 17}, "for each vertex, got 17 for 18 vertices"),
    "text": (SEGMENTS, {"segIndices": ["a"]}, "each of type int, got .'a'."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_of_a_text_is_one_line(scan: Path, damage: str) -> None:
    part, changes, said = DAMAGES[damage]
    path = scan / f"{SCENE}{part}"
    with refused(path, said):
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        scans.converted(scan, LABELS, 99, 0)


BROKEN = {
    "no mesh": (b"ply\n", b"plx\n", "must be an intact mesh, got "),
    "cut": (b"element vertex 18", b"element vertex 88", "must be an intact mesh, got "),
    "face": (b"\x03\x0f\0\0\0", b"\x03\x63\0\0\0", "must be of the 18 vertices, got 0 to 99"),
    "colour": (b"uchar red", b"uchar rot", "vertices must have x, y, z, red, .* got vertex .* rot"),
    "corners": (b"int vertex_indices", b"int corner_indices", "faces vertex_indices, got "),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_each_damage_of_a_mesh_is_one_line(scan: Path, damage: str) -> None:
    old, new, said = BROKEN[damage]
    path = scan / f"{SCENE}_vh_clean_2.ply"
    content = path.read_bytes()
    assert content.count(old) == 1
    with refused(path, said):
        path.write_bytes(content.replace(old, new))
        scans.converted(scan, LABELS, 99, 0)


TABLES = {
    "columns": ("a\tb\n1\t2\n", "must have the columns raw_category and nyu40id, got .* a, b"),
    "empty": ("", "columns raw_category and nyu40id, got no rows"),
    "number": ("raw_category\tnyu40id\ndesk\t41\n", "must lie in 0..40, got '41' of 'desk'"),
    "nothing": ("raw_category\tnyu40id\ndesk\n", "must lie in 0..40, got None of 'desk'"),
}


@pytest.mark.parametrize("damage", TABLES)
def test_each_damage_of_the_labels_is_one_line(tmp_path: Path, damage: str) -> None:
    path = write_labels(tmp_path / "labels.tsv")
    assert scans.label_numbers(path) == LABELS
    content, said = TABLES[damage]
    with refused(path, said):
        path.write_text(content)
        scans.label_numbers(path)


@pytest.mark.parametrize("part", [SEGMENTS, OBJECTS, "_vh_clean_2.ply", ".txt"])
def test_a_missing_file_is_one_line(scan: Path, part: str) -> None:
    path = scan / f"{SCENE}{part}"
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name}: .*must ") as caught:
        scans.converted(scan, LABELS, 99, 0)
    assert "\n" not in str(caught.value)
