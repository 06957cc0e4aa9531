"""What a model sees of a room: against arithmetic by hand, and what a move must keep."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rectify.data.situations import KINDS, SituationSet
from rectify.runtime import generator
from rectify.tasks.situated_question_answering.prepare import prepare
from rectify.tasks.situated_question_answering.rooms import (
    Change,
    Move,
    chosen_points,
    drawn_move,
    mean_sizes,
    moved,
    moved_boxes,
    moved_pose,
    seen_points,
    seen_room,
    stacked,
    votes,
)
from rectify.tasks.situated_question_answering.settings import Settings

KEYS = {
    "reader": "rooms",
    "answers": 11,
    "words": 64,
    "sizes": {"seed": 0, "train_rooms": 8, "test_rooms": 4, "stored": 60},
}


@pytest.fixture(scope="module")
def kept() -> SituationSet:
    return prepare("toy", Settings.model_validate(KEYS), None, 1).sets["train"]


def test_colours_and_heights_are_those_by_hand(kept: SituationSet) -> None:
    chosen = torch.tensor([3, 0, 17])
    seen, erased = (seen_points(kept, 2, chosen, twice) for twice in (False, True))
    place = kept.points_of(2)
    points, colours = kept.points[place].double(), kept.colours[place].double()
    floor = np.percentile(points[:, 2], 0.99)
    for row, number in enumerate(chosen.tolist()):
        expected = points[number].tolist()
        own = zip(colours[number].tolist(), (109.8, 97.2, 83.8), strict=True)
        scaled = [(colour - mean) / 256 for colour, mean in own]
        assert seen[row].tolist() == pytest.approx(
            [*expected, *scaled, expected[2] - floor], abs=1e-5
        )
    assert (seen[:, 3:6].std(0) > 100 * erased[:, 3:6].std(0)).all()
    assert torch.equal(seen[:, :3], erased[:, :3])


def test_points_are_different_ones_where_there_are_enough() -> None:
    assert chosen_points(9, 9, 3).sort().values.tolist() == list(range(9))
    assert len(chosen_points(9, 5, 3).unique()) == 5
    more = chosen_points(9, 40, 3)
    assert len(more) == 40
    assert set(more.tolist()) <= set(range(9))
    assert not torch.equal(chosen_points(9, 5, 3), chosen_points(9, 5, 4))


def test_votes_lead_to_the_middle_of_what_is_seen_of_an_object() -> None:
    points = torch.randn(40, 3, generator=generator(0))
    objects = torch.randint(0, 6, (40,), generator=generator(1))
    kinds = torch.tensor([0, 2, 5, 1, 39, 41])[objects]  # nothing, floor, chair, wall, ..., beyond
    ways, there = votes(points, objects, kinds)
    for number, (way, has) in enumerate(zip(ways, there, strict=True)):
        own = points[objects == objects[number]]
        middle = (own.amin(0) + own.amax(0)) / 2
        expected = middle - points[number] if objects[number] in (2, 4) else torch.zeros(3)
        torch.testing.assert_close(way, expected)
        assert has == (objects[number] in (2, 4))


def test_an_object_is_of_the_kind_of_its_first_point() -> None:
    _, there = votes(torch.eye(3), torch.zeros(3, dtype=torch.int64), torch.tensor([5, 2, 2]))
    assert there.tolist() == [1, 1, 1]
    assert votes(torch.eye(3), torch.zeros(3).long(), torch.tensor([2, 5, 5]))[1].sum() == 0


def corners(box: torch.Tensor) -> torch.Tensor:
    signs = torch.tensor([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    return box[:3] + signs * box[3:] / 2


def test_a_moved_box_holds_its_moved_corners() -> None:
    """About one axis it is the smallest that does; about several it is turned again each time."""
    box = torch.tensor([[1.0, -2.0, 0.5, 2.0, 0.8, 1.5]])
    mirror, shift = np.array([-1.0, 1, 1]), np.array([0.1, 0.2, -0.3])
    for angles, is_tight in (((0, 0, 4), True), ((5, 0, 0), True), ((3, -4, 5), False)):
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
        move = Move(mirror, turn, shift)
        (found,) = moved_boxes(box, move)
        placed = moved(corners(box[0]).float(), move)
        low, high = found[:3] - found[3:] / 2, found[:3] + found[3:] / 2
        assert (placed >= low - 1e-5).all()
        assert (placed <= high + 1e-5).all()
        if is_tight:
            torch.testing.assert_close(placed.amax(0) - placed.amin(0), found[3:])


@pytest.mark.parametrize("mirror", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_moved_pose_sees_ahead_what_was_ahead(mirror: tuple[int, int]) -> None:
    """A single mirror changes left and right, two are a half turn and do not."""
    yaw = 0.7
    pose = torch.tensor([1.0, 2.0, 0.0, *Rotation.from_euler("z", yaw).as_quat()]).float()
    turn = Rotation.from_euler("xyz", (3, -2, 5), degrees=True).as_matrix()
    move = Move(np.array([*mirror, 1.0]), turn, np.array([0.3, -0.2, 0.1]))
    found = moved_pose(pose, move)
    here = moved(pose[None, :3], move)
    torch.testing.assert_close(found[:3], here[0])
    frame = Rotation.from_quat(found[3:].numpy()).as_matrix()
    ahead = pose[:3] + torch.tensor([np.cos(yaw), np.sin(yaw), 0.0]).float()
    left = pose[:3] + torch.tensor([-np.sin(yaw), np.cos(yaw), 0.0]).float()
    way_ahead, way_left = (moved(one[None], move)[0] - here[0] for one in (ahead, left))
    assert np.allclose(frame[:, 0], way_ahead, atol=1e-5)
    assert np.allclose(frame[:, 1], way_left * mirror[0] * mirror[1], atol=1e-5)


def test_published_mirrors_of_a_yaw_are_its_supplement_and_its_negative() -> None:
    yaw, still = 0.7, np.zeros(3)
    pose = torch.tensor([0.0, 0.0, 0.0, *Rotation.from_euler("z", yaw).as_quat()]).float()
    for mirror, expected in (((-1, 1, 1), np.pi - yaw), ((1, -1, 1), -yaw)):
        found = moved_pose(pose, Move(np.array(mirror, float), np.eye(3), still))
        turned = Rotation.from_quat(found[3:].numpy()).as_euler("zyx")
        assert turned == pytest.approx([expected, 0, 0], abs=1e-5)


def test_moves_stay_within_what_is_asked_for_and_flip_half() -> None:
    moves = [drawn_move(seed, Change(True, 5.0, 0.5)) for seed in range(200)]
    mirrors = np.array([move.mirror for move in moves])
    assert 70 < (mirrors[:, 0] < 0).sum() < 130
    assert 70 < (mirrors[:, 1] < 0).sum() < 130
    assert (mirrors[:, 2] == 1).all()
    assert max(np.abs(move.shift).max() for move in moves) == pytest.approx(0.5, abs=0.02)
    angles = [Rotation.from_matrix(move.turn).as_euler("xyz", degrees=True) for move in moves]
    assert np.abs(angles).max(0) == pytest.approx([5, 5, 5], abs=0.2)
    plain = drawn_move(3, Change(False, 5.0, 0.5))
    assert (plain.mirror == 1).all()
    assert np.array_equal(plain.turn, moves[3].turn)  # all else stays as it is drawn


def test_mean_sizes_are_those_of_each_kind_alone(kept: SituationSet) -> None:
    found = mean_sizes(kept)
    for kind in range(len(KINDS)):
        own = kept.boxes[kept.box_kinds == kind]
        expected = (own if len(own) else kept.boxes)[:, 3:].mean(0)
        torch.testing.assert_close(found[kind], expected)


def test_rooms_of_a_batch_are_each_as_alone(kept: SituationSet) -> None:
    change = Change(True, 5.0, 0.5)
    alone = [
        seen_room(kept, item, 32, 7 + item, change, erased=False, detection=True)
        for item in (0, 6, 33)
    ]
    together = stacked(alone)
    for row, one in enumerate(alone):
        boxes = len(one["kinds"])
        assert together["has_box"][row].sum() == boxes
        for name, values in one.items():
            assert torch.equal(together[name][row][: len(values)], values)
    empty = {**alone[0], **{name: alone[0][name][:0] for name in ("centres", "sizes", "kinds")}}
    assert stacked([empty])["has_box"].tolist() == [[0]]
    still = seen_room(kept, 6, 32, 13, None, erased=False, detection=True)
    assert torch.equal(still["features"], alone[1]["features"])
    assert not torch.equal(still["points"], alone[1]["points"])
    assert torch.equal(still["pose"], kept.poses[6])
