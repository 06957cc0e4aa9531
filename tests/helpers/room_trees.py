"""SQA3D's and ScanNet's files from drawn rooms, with fields that no reader needs."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rectify.data.situations import Room, Told
from rectify.demo.rooms import unaligned

SIZES = {
    "dim": 16, "depth": 1, "heads": 2, "dropout": 0.0, "word_dropout": 0.0, "answer_dropout": 0.0,
    "embedding": 8, "pool_hidden": 8, "pool": 8, "width": 4, "sets": [20, 12, 8, 6],
    "radii": [0.6, 1.0, 1.4, 1.8], "group_sizes": [6, 4, 4, 4], "proposals": 6,
    "vote_radius": 0.8, "vote_group": 4, "hides": False,
}  # fmt: skip
"""Overrides of a tiny model for rooms of 64 points."""
SCENES = "scannet_data"


def write(folder: Path, told: Mapping[str, Told]) -> Path:
    """Write the JSON files of each split, and the arrays and the text of each room.

    An annotation stands where its question does not; validation has the first test room's.
    """
    few = Told([one for one in told["test"].situations if one.room == 0], told["test"].rooms[:1])
    for split, one in {**told, "val": few}.items():
        for room in one.rooms:
            write_room(folder, room)
        questions = [
            {
                "scene_id": one.rooms[asked.room].name,
                "situation": asked.situation,
                "alternative_situation": [],
                "question": asked.question,
                "question_id": asked.number,
            }
            for asked in one.situations
        ]
        annotations = [
            {
                "scene_id": one.rooms[asked.room].name,
                "question_type": "N/A",
                "answer_type": "other",
                "question_id": asked.number,
                "answers": [{"answer": asked.answer, "answer_confidence": "yes", "answer_id": 1}],
                "rotation": dict(zip(("_x", "_y", "_z", "_w"), asked.rotation, strict=True)),
                "position": dict(zip("xyz", asked.position, strict=True)),
            }
            for asked in reversed(one.situations)
        ]
        about = {"info": {"version": "1.0"}, "data_subtype": split, "task_type": "Open-Ended"}
        for name, content in (
            (f"v1_balanced_questions_{split}_scannetv2.json", {"questions": questions}),
            (f"v1_balanced_sqa_annotations_{split}_scannetv2.json", {"annotations": annotations}),
        ):
            (folder / name).write_text(json.dumps({**about, **content}))
    return folder


def write_room(folder: Path, room: Room) -> None:
    """Write the five arrays that are read, the unaligned boxes, and the text of a scan."""
    arrays, scan = folder / SCENES, folder / "scans" / room.name
    arrays.mkdir(exist_ok=True)
    scan.mkdir(parents=True, exist_ok=True)
    normals = np.zeros_like(room.points)
    plain = unaligned(room.points, room.alignment)
    numbers = np.arange(1, len(room.boxes) + 1)
    boxes = np.column_stack([room.boxes, room.box_kinds, numbers])
    for part, array in {
        "aligned_vert": np.hstack([room.points, room.colours, normals]).astype(np.float32),
        "vert": np.hstack([plain, room.colours, normals]).astype(np.float32),
        "sem_label": room.kinds.astype(np.uint32),
        "ins_label": room.objects.astype(np.uint32),
        "aligned_bbox": boxes,
        "bbox": boxes,
    }.items():
        np.save(arrays / f"{room.name}_{part}.npy", array)
    matrix = " ".join(repr(float(number)) for number in room.alignment.flatten())
    text = f"axisAlignment = {matrix} \ncolorHeight = 968\nsceneType = Bedroom\n"
    (scan / f"{room.name}.txt").write_text(text)
