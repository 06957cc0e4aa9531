"""SQA3D (Ma et al., ICLR 2023): questions and annotations as JSON, scans of ScanNet as arrays.

    v1_balanced_questions_{train,val,test}_scannetv2.json         scene_id, situation, question, ...
    v1_balanced_sqa_annotations_{train,val,test}_scannetv2.json   answers, position, rotation, ...
    scannet_data/<scene>_{vert,aligned_vert,sem_label,ins_label,aligned_bbox}.npy
    scans/<scene>/<scene>.txt                                     its line axisAlignment

The arrays are those that the public preprocessing of ScanRefer, ScanQA and SQA3D makes of the
scans. Validation questions are read for the answers that may be given, which are those of all
splits; no model sees them.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.results.files import check_no_pointer
from rectify.tasks.annotations import paired
from rectify.tasks.image_classification.folders import check_present

if TYPE_CHECKING:
    import numpy as np

    from rectify.data.situations import Room, Situation, Told

EMBEDDED, IN_MEMORY = False, True

SPLITS = ("train", "val", "test")
SOURCE = "SQA3D (https://zenodo.org/records/7792397) and the preprocessed scans of ScanNet"
ASKED = {"question_id": int, "scene_id": str, "situation": str, "question": str}
ANSWERED = {
    "question_id": int, "scene_id": str, "answers": list, "position": dict, "rotation": dict
}  # fmt: skip
PARTS = ("vert", "aligned_vert", "sem_label", "ins_label", "aligned_bbox")
COLUMNS = {"vert": 9, "aligned_vert": 9, "aligned_bbox": 8}
"""Position, colour and normal of a vertex; centre, size, kind and number of an object."""
UNIT = 1e-3  # most by which the length of a quaternion may differ from 1
ALIGNMENT = "axisAlignment"
COMPLETE: dict[tuple[str, ...], int] = {("train",): 26_623, ("test",): 3_519}


def read(folder: Path) -> "dict[str, Told]":
    """Return the questions of train, validation and test, with the rooms they are asked in.

    Args:
        folder: Holds the six JSON files, ``scannet_data`` and ``scans``.

    Raises:
        ValueError: If a file is missing, damaged or not of this format.
    """
    names = [name(split) for split in SPLITS for name in (_questions, _annotations)]
    check_present(folder, [folder / name for name in names], SOURCE)
    return {split: _told(folder, split) for split in SPLITS}


def _questions(split: str) -> str:
    return f"v1_balanced_questions_{split}_scannetv2.json"


def _annotations(split: str) -> str:
    return f"v1_balanced_sqa_annotations_{split}_scannetv2.json"


def _told(folder: Path, split: str) -> "Told":
    """Return one split, in the order of the file of questions."""
    from rectify.data.situations import Told

    path = folder / _annotations(split)
    questions = folder / _questions(split), ASKED
    rooms: dict[str, int] = {}
    situations = []
    for asked, answered in paired(questions, (path, ANSWERED), _wrong):
        room = rooms.setdefault(asked["scene_id"], len(rooms))
        situations.append(_situation(path, asked, answered, room))
    return Told(situations, [_room(folder, name) for name in rooms])


def _situation(path: Path, asked: dict, answered: dict, room: int) -> "Situation":
    """Return one question with its answer and its pose."""
    from rectify.data.situations import Situation

    number = asked["question_id"]
    if asked["scene_id"] != answered["scene_id"]:
        got = f"{answered['scene_id']} and {asked['scene_id']} of question {number}"
        raise _wrong(path, "scene_id must be that of the question", got)
    said = [one.get("answer") if isinstance(one, dict) else None for one in answered["answers"]]
    if len(said) != 1 or not isinstance(said[0], str):
        got = f"{sum(isinstance(one, str) for one in said)} of question {number}"
        raise _wrong(path, "a question must have one answer", got)
    position = _numbers(path, answered, "position", ("x", "y", "z"))
    rotation = _numbers(path, answered, "rotation", ("_x", "_y", "_z", "_w"))
    length = math.hypot(*rotation)
    if abs(length - 1) > UNIT:
        raise _wrong(path, "rotation must be a unit quaternion", f"length {length:g} of {number}")
    for name in ("situation", "question"):
        if not asked[name].split():
            asked_in = path.with_name(path.name.replace("sqa_annotations", "questions"))
            raise _wrong(asked_in, f"{name} must have words", f"none of question {number}")
    return Situation(
        number, room, asked["situation"], asked["question"], said[0], position, rotation
    )


def _numbers(path: Path, answered: dict, key: str, names: tuple[str, ...]) -> tuple[float, ...]:
    """Return finite numbers of a mapping, by their names whatever their order."""
    values = [answered[key].get(name) for name in names]
    for name, value in zip(names, values, strict=True):
        if type(value) not in (int, float) or not math.isfinite(value):
            got = f"{value!r:.40} of question {answered['question_id']}"
            raise _wrong(path, f"{name} of {key} must be a number", got)
    return tuple(map(float, values))


def _room(folder: Path, name: str) -> "Room":
    """Return one scan."""
    import numpy as np

    from rectify.data.situations import Room

    parts = {part: _array(folder / "scannet_data" / f"{name}_{part}.npy", part) for part in PARTS}
    path = folder / "scannet_data" / f"{name}_aligned_vert.npy"
    vertices, plain, boxes = (parts[part] for part in ("aligned_vert", "vert", "aligned_bbox"))
    for part in ("vert", "sem_label", "ins_label"):
        if len(parts[part]) != len(vertices):
            other = path.with_name(f"{name}_{part}.npy")
            got = f"{len(parts[part])} and {len(vertices)}"
            raise _wrong(other, "it must be about the points of aligned_vert", got)
    colours = vertices[:, 3:6]
    if not ((colours >= 0) & (colours <= 255)).all():
        got = f"{colours.min():g} to {colours.max():g}"
        raise _wrong(path, "colours must lie in 0..255", got)
    return Room(
        name,
        points=vertices[:, :3].astype(np.float32),
        colours=colours.round().astype(np.uint8),
        objects=parts["ins_label"].astype(np.int16),
        kinds=parts["sem_label"].astype(np.uint8),
        boxes=boxes[:, :6].astype(np.float32),
        box_kinds=boxes[:, 6].astype(np.uint8),
        middle=(plain[:, :3].max(0).astype(float) + plain[:, :3].min(0)) / 2,
        alignment=alignment(folder / "scans" / name / f"{name}.txt"),
    )


def _array(path: Path, part: str) -> "np.ndarray":
    """Return one array of a scan, checked."""
    import numpy as np

    check_no_pointer(path)
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise _wrong(path, "it must exist", "no file") from None
    except (OSError, ValueError, EOFError) as error:
        got = f"{error}".splitlines()[0].rstrip(".")
        raise _wrong(path, "it must be an intact array", got) from None
    columns = COLUMNS.get(part)
    shape = "(points,)" if columns is None else f"(rows, {columns})"
    fits = array.ndim == 1 if columns is None else array.ndim == 2 and array.shape[1] == columns
    if not fits or (len(array) == 0 and part != "aligned_bbox"):
        raise _wrong(path, f"its shape must be {shape}", f"{array.shape}")
    kinds, what = ("iu", "whole numbers") if columns is None else ("f", "floats")
    if array.dtype.kind not in kinds or not np.isfinite(array).all():
        raise _wrong(path, f"it must hold {what}, all finite", f"{array.dtype}")
    largest = {"sem_label": 255, "ins_label": 32767}.get(part)
    if largest is not None and not (array.min() >= 0 and array.max() <= largest):
        raise _wrong(path, f"numbers must lie in 0..{largest}", f"{array.min()} to {array.max()}")
    return array


def alignment(path: Path) -> "np.ndarray":
    """Return the matrix of the line ``axisAlignment``; none was needed where it is missing."""
    import numpy as np

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise _wrong(path, "it must be a readable text", "none") from None
    lines = [line.partition("=") for line in text.splitlines() if line.startswith(ALIGNMENT)]
    if not lines:
        return np.eye(4)
    try:
        numbers = np.array([float(one) for one in lines[0][2].split()])
    except ValueError:
        numbers = np.array([])
    if len(numbers) != 16 or not np.isfinite(numbers).all():
        raise _wrong(path, f"{ALIGNMENT} must have 16 numbers", f"{lines[0][2].strip()!r:.40}")
    matrix = numbers.reshape(4, 4)
    turn = matrix[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > UNIT or np.linalg.det(turn) < 0:
        raise _wrong(path, f"{ALIGNMENT} must be a turn and a shift", f"{numbers[:3].tolist()}")
    return matrix


def _wrong(path: Path, rule: str, got: str) -> ValueError:
    return ValueError(f"{path}: {rule}, got {got}. Get {SOURCE} again.")
