"""Drawn rooms: answers that follow from the scan alone, told evenly, the same for the same seed."""

from collections import Counter

import numpy as np
import pytest

from rectify.data.situations import NYU40, Room, Told, first_word, pose_in_points
from rectify.demo.rooms import COLOURS, SIZES, rooms, unaligned


@pytest.fixture(scope="module")
def drawn() -> dict[str, Told]:
    return rooms(seed=1, train_rooms=60, test_rooms=20, stored=80)


def box_of(room: Room, kind: str) -> np.ndarray:
    (box,) = room.boxes[room.box_kinds == NYU40[kind]]
    return box


def answer(room: Room, question: str, pose: np.ndarray) -> str:
    """What is true, from boxes, points and the pose alone."""
    words = question.rstrip("?").split()
    mean = room.colours[room.objects > 0].mean(0)
    colour = min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())
    if words[0] == "What":
        return colour
    if words[0] == "Is":
        return "yes" if words[3] == colour else "no"
    if words[0] == "Which":
        return colour if colour in words[2:5:2] else "neither"
    if words[0] == "How":
        count = (room.box_kinds == NYU40[words[2].removesuffix("s")]).sum()
        return ("one", "two", "three")[count - 1]
    sine, cosine = 2 * pose[5] * pose[6], pose[6] ** 2 - pose[5] ** 2
    way = box_of(room, words[3] if words[0] == "Can" else words[7])[:2] - pose[:2]
    if words[0] == "Can":
        return "yes" if way @ (cosine, sine) > 0 else "no"
    return "left" if way @ (-sine, cosine) > 0 else "right"


def test_answers_are_true_of_the_scan_and_the_pose(drawn: dict[str, Told]) -> None:
    for told in drawn.values():
        for one in told.situations:
            room = told.rooms[one.room]
            question = one.question.replace("Can I see the", "Can I see")  # the kind is word 3
            assert answer(room, question, pose_in_points(one, room)) == one.answer


def test_points_are_on_the_floor_or_on_their_boxes(drawn: dict[str, Told]) -> None:
    for room in drawn["test"].rooms:
        assert 4 <= len(room.boxes) <= 6
        for number, (box, kind) in enumerate(zip(room.boxes, room.box_kinds, strict=True), 1):
            name = next(name for name, own in NYU40.items() if own == kind)
            assert sorted(box[3:]) == pytest.approx(sorted(SIZES[name]))
            own = room.objects == number
            assert (room.kinds[own] == kind).all()
            away = np.abs(room.points[own] - box[:3]) / (box[3:] / 2)
            assert (away < 1 + 1e-4).all()
            assert (np.abs(away - 1) < 1e-4).any(1).all()  # on a side
        floor = room.objects == 0
        assert (room.points[floor, 2] == 0).all()
        assert (room.kinds[floor] == 2).all()
        gaps = np.abs(room.boxes[:, None, :2] - room.boxes[None, :, :2])
        touch = (gaps < (room.boxes[:, None, 3:5] + room.boxes[None, :, 3:5]) / 2).all(2)
        assert touch.sum() == len(room.boxes)  # each only itself


def test_six_types_are_asked_in_each_room_and_told_evenly(drawn: dict[str, Told]) -> None:
    asked = drawn["train"].situations
    types = [first_word(one.question) for one in asked]
    assert types == ["what", "is", "which", "how", "can", "on"] * 60
    counts = Counter(zip(types, (one.answer for one in asked), strict=True))
    assert counts["is", "yes"] == counts["is", "no"] == 30
    for name in COLOURS:
        assert sum(f"{name}?" in one.question for one in asked) > 5
    assert all(counts["what", name] > 5 for name in COLOURS)
    assert all(counts["how", name] > 9 for name in ("one", "two", "three"))
    assert min(counts["on", "left"], counts["can", "yes"]) > 18
    firsts = [one.question.split()[2] == one.answer for one in asked if "Which" in one.question]
    assert 18 < sum(firsts) < 42  # the first that is named, as often as the second


def test_a_scan_is_turned_back_to_its_walls(drawn: dict[str, Told]) -> None:
    for room in drawn["test"].rooms:
        plain = unaligned(room.points, room.alignment)
        again = plain @ room.alignment[:3, :3].T + room.alignment[:3, 3]
        assert np.allclose(again, room.points, atol=1e-4)
        assert np.allclose(room.middle, (plain.max(0) + plain.min(0)) / 2, atol=1e-5)


def test_the_same_seed_draws_the_same_rooms(drawn: dict[str, Told]) -> None:
    again = rooms(seed=1, train_rooms=60, test_rooms=20, stored=80)
    other = rooms(seed=2, train_rooms=60, test_rooms=20, stored=80)
    for split, told in drawn.items():
        assert again[split].situations == told.situations
        same = zip(again[split].rooms, told.rooms, strict=True)
        assert all(np.array_equal(one.points, two.points) for one, two in same)
    assert other["test"].situations != drawn["test"].situations
    assert drawn["train"].rooms[0].points.shape == (80, 3)
