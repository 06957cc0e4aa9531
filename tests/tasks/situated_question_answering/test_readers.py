"""SQA3D as it is published, from drawn rooms; and one line for each damage."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame

from rectify.demo.rooms import rooms
from rectify.tasks.readers import check_complete
from rectify.tasks.situated_question_answering.readers import sqa3d
from rectify.tasks.situated_question_answering.readers.sqa3d import read
from tests.helpers import room_trees
from tests.helpers.damages import refused

SIZES = {"seed": 0, "train_rooms": 2, "test_rooms": 1, "stored": 40}
ARRAYS = ("points", "colours", "objects", "kinds", "boxes", "box_kinds")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return room_trees.write(tmp_path_factory.mktemp("sqa3d"), rooms(**SIZES))


def test_the_files_give_the_questions_and_rooms_that_were_written(source: Path) -> None:
    found, expected = read(source), rooms(**SIZES)
    assert list(found) == ["train", "val", "test"]
    assert len(found["val"].situations) == 6
    for split, told in expected.items():
        assert found[split].situations == told.situations
        for room, other in zip(found[split].rooms, told.rooms, strict=True):
            assert room.name == other.name
            for name in ARRAYS:
                one, two = getattr(room, name), getattr(other, name)
                assert one.dtype == two.dtype
                assert np.array_equal(one, two), name
            assert np.array_equal(room.alignment, other.alignment)
            assert room.middle == pytest.approx(other.middle, abs=1e-6)


def test_a_scan_without_alignment_was_not_turned(source: Path) -> None:
    (path,) = (source / "scans").glob("test*/*.txt")
    before = path.read_text()
    path.write_text("colorHeight = 968\n")
    try:
        assert np.array_equal(read(source)["test"].rooms[0].alignment, np.eye(4))
    finally:
        path.write_text(before)


ASKED = "v1_balanced_questions_train_scannetv2.json"
SAID = "v1_balanced_sqa_annotations_train_scannetv2.json"
Change = Callable[[list], object]


def set_to(key: str, value: object, place: int = 3) -> Change:
    return lambda entries: entries[place].__setitem__(key, value)


DAMAGES = {
    "no list": (ASKED, lambda entries: entries.clear(), "must have a list of questions, got none"),
    "a number": (ASKED, lambda entries: entries.append(7), "questions must be a mapping, got 7"),
    "text": (ASKED, set_to("question", None), "question must be a str, got None of entry 3"),
    "no words": (ASKED, set_to("situation", " "), "situation must have words, got none of q.* 3"),
    "id": (ASKED, set_to("question_id", "9"), "question_id must be a int, got '9' of entry 3"),
    "twice": (ASKED, lambda e: e.append(e[0]), "a question_id must be there once, got 0 twice"),
    "two answers": (SAID, lambda e: e[-1]["answers"].append({"answer": "x"}),
                    "a question must have one answer, got 2 of question 0"),
    "no answer": (SAID, lambda e: e[-1]["answers"].clear(), "one answer, got 0 of question 0"),
    "another room": (SAID, set_to("scene_id", "x", -1),
                     "scene_id must be that of the question, got x and train0000_00 of question 0"),
    "place": (SAID, lambda e: e[-1]["position"].pop("y"),
              "y of position must be a number, got None of question 0"),
    "infinite": (SAID, lambda e: e[-1]["position"].update(x=float("inf")),
                 "x of position must be a number, got inf of question 0"),
    "rotation": (SAID, lambda e: e[-1]["rotation"].update(_w=2),
                 "must be a unit quaternion, got length 2.* of 0"),
    "not annotated": (SAID, lambda e: e.pop(), "must have an annotation, got none of 0"),
    "not asked": (SAID, lambda e: e.append({**e[0], "question_id": 999}),
                  "be of a question that is asked, got one of 999"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_of_a_list_is_one_line(source: Path, damage: str) -> None:
    file, change, said = DAMAGES[damage]
    path, before = source / file, (source / file).read_text()
    content = json.loads(before)
    change(content["questions" if file == ASKED else "annotations"])
    assert json.dumps(content) != before
    with refused(path, said):
        path.write_text(json.dumps(content))
        read(source)


def with_colour(array: np.ndarray, value: float) -> np.ndarray:
    array[0, 3] = value
    return array


BROKEN = {
    "missing": ("vert", None, "it must exist, got no file"),
    "no array": ("sem_label", b"no array", "it must be an intact array, got .*"),
    "cut": ("vert", lambda a: a[:-1], "be about the points of aligned_vert, got 39 and 40"),
    "labels": ("ins_label", lambda a: a[:-1], "be about the points of aligned_vert, got 39 and 40"),
    "flat": ("aligned_vert", lambda a: a[:, 0], r"shape must be \(rows, 9\), got \(40,\)"),
    "columns": ("aligned_bbox", lambda a: a[:, :7], r"shape must be \(rows, 8\), got \(\d, 7\)"),
    "nothing": ("sem_label", lambda a: a[:0], r"shape must be \(points,\), got \(0,\)"),
    "floats": (
        "sem_label",
        lambda a: a.astype(float),
        "must hold whole numbers, all finite, got f",
    ),
    "infinite": ("vert", lambda a: a / 0, "must hold floats, all finite, got float32"),
    "large": ("ins_label", lambda a: a + 40_000, r"numbers must lie in 0\.\.32767, got 4"),
    "negative": ("sem_label", lambda a: a.astype(int) - 9, r"must lie in 0\.\.255, got -"),
    "colours": ("aligned_vert", lambda a: with_colour(a, 256), r"colours must lie in 0\.\.255"),
}


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("damage", BROKEN)
def test_each_damage_of_a_scan_is_one_line(source: Path, damage: str) -> None:
    part, change, said = BROKEN[damage]
    path = source / room_trees.SCENES / f"train0001_00_{part}.npy"
    with refused(path, said):
        if change is None:
            path.unlink()
        elif isinstance(change, bytes):
            path.write_bytes(change)
        else:
            np.save(path, change(np.load(path)))
        read(source)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axisAlignment = 1 0 0", "must have 16 numbers, got '1 0 0'"),
        ("axisAlignment = " + "x " * 16, "must have 16 numbers"),
        ("axisAlignment = " + "2 " * 16, "must be a turn and a shift"),
        (None, "it must be a readable text, got none"),
    ],
)
def test_each_damage_of_an_alignment_is_one_line(source: Path, text: str | None, said: str) -> None:
    path = source / "scans" / "train0001_00" / "train0001_00.txt"
    with refused(path, said):
        path.unlink()
        if text is not None:
            path.write_text(text)
        read(source)


def test_a_folder_without_the_set_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got no .*v1_balanced_questions_train.* Get SQA3D"):
        read(tmp_path)


def test_the_published_counts_are_asked_for() -> None:
    listing = DataFrame({"split": ["train"] * 26_623 + ["test"] * 3_518})
    with pytest.raises(ValueError, match="3,519 items in test, got 3518"):
        check_complete("sqa3d", sqa3d, listing)
