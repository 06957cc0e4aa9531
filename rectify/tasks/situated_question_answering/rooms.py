"""From stored rooms to what a model sees, and what its detector learns.

Every draw is an item's own. Colours are about their mean, the height is that above the lowest
hundredth of a percent or so of a room's points, as published, and boxes stay along the axes when a
room is turned: they become as large as the turned box needs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rectify.data.situations import KINDS, NO_OBJECT, SituationSet, signed
from rectify.runtime import generator

MEAN_COLOUR = (109.8, 97.2, 83.8)
COLOUR_SCALE = 256.0
FEATURES = 4
"""Of a point besides its place: three of its colour, and its height."""
OBJECTS = torch.tensor([0 < number <= 40 and number not in NO_OBJECT for number in range(256)])
"""Whether a number of NYU40 is an object's."""


class Change(NamedTuple):
    """How training rooms are changed."""

    flips: bool
    turn: float
    """Most degrees, about each axis."""
    shift: float
    """Most metres, along each axis."""


class Move(NamedTuple):
    """How one room is moved: a mirror, then a turn, then a shift."""

    mirror: Float64[np.ndarray, " 3"]
    turn: Float64[np.ndarray, "3 3"]
    shift: Float64[np.ndarray, " 3"]


def drawn_move(seed: int, change: Change) -> Move:
    """Return one training room's move: turned about x, then y, then z."""
    numbers = torch.rand(8, generator=generator(seed, "move"), dtype=torch.float64).numpy()
    mirror = np.where((numbers[:2] > 0.5) & change.flips, -1.0, 1.0)
    angles = change.turn * (2 * numbers[2:5] - 1)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Move(np.array([*mirror, 1.0]), turn, change.shift * (2 * numbers[5:] - 1))


def chosen_points(stored: int, count: int, seed: int) -> Int64[Tensor, " count"]:
    """Return which points of a room are seen: all different, if there are enough."""
    draws = generator(seed, "points")
    if stored < count:
        return torch.randint(stored, (count,), generator=draws)
    return torch.randperm(stored, generator=draws)[:count]


def seen_points(
    rooms: SituationSet, room: int, chosen: Int64[Tensor, " count"], erased: bool
) -> Float32[Tensor, "count 7"]:
    """Return place, colour and height of the chosen points of a room.

    Args:
        rooms: The split.
        room: Which one.
        chosen: Which points.
        erased: Whether colours are scaled twice.
    """
    colours = rooms.colours[rooms.points_of(room)][chosen].float()
    for _ in range(2 if erased else 1):
        colours = (colours - torch.tensor(MEAN_COLOUR)) / COLOUR_SCALE
    places = rooms.points[rooms.points_of(room)][chosen]
    return torch.cat([places, colours, places[:, 2:] - rooms.floors[room]], 1)


def moved(points: Float32[Tensor, "count 3"], move: Move) -> Float32[Tensor, "count 3"]:
    """Return places where a move takes them."""
    made = points.double().numpy() * move.mirror @ move.turn.T + move.shift
    return torch.from_numpy(made).float()


def moved_boxes(boxes: Float32[Tensor, "boxes 6"], move: Move) -> Float32[Tensor, "boxes 6"]:
    """Return boxes along the axes around the moved ones, turned about one axis after the other."""
    sizes = boxes[:, 3:].double().numpy()
    for axis, angle in zip("xyz", Rotation.from_matrix(move.turn).as_euler("xyz"), strict=True):
        sizes = sizes @ np.abs(Rotation.from_euler(axis, angle).as_matrix()).T
    return torch.cat([moved(boxes[:, :3], move), torch.from_numpy(sizes).float()], 1)


def moved_pose(pose: Float32[Tensor, " 7"], move: Move) -> Float32[Tensor, " 7"]:
    """Return a pose where a move takes it: forward stays forward, a mirror changes left and right.

    Forward is x of the agent's own frame, and left is y.
    """
    place = moved(pose[None, :3], move)[0]
    rotation = Rotation.from_quat(pose[3:].double().numpy()).as_matrix()
    own_left = np.array([1.0, move.mirror.prod(), 1.0])
    turned = move.turn @ (move.mirror[:, None] * rotation * own_left)
    quaternion = signed(Rotation.from_matrix(turned).as_quat())
    return torch.cat([place, torch.from_numpy(quaternion).float()])


def votes(
    points: Float32[Tensor, "count 3"],
    objects: Int64[Tensor, " count"],
    kinds: Int64[Tensor, " count"],
) -> tuple[Float32[Tensor, "count 3"], Float32[Tensor, " count"]]:
    """Return the way from each point to the middle of its object, and whether it has one.

    The middle is that of the extent of the points that are seen. An object's kind is that of the
    first of them.
    """
    _, place = objects.unique(return_inverse=True)
    many = int(place.max()) + 1
    own = place[:, None].expand(-1, 3)
    lowest = points.new_zeros(many, 3).scatter_reduce(0, own, points, "amin", include_self=False)
    highest = points.new_zeros(many, 3).scatter_reduce(0, own, points, "amax", include_self=False)
    numbers = torch.arange(len(points))
    first = numbers.new_zeros(many).scatter_reduce(0, place, numbers, "amin", include_self=False)
    there = OBJECTS[kinds[first]][place].float()
    return ((lowest + highest) / 2)[place] * there[:, None] - points * there[:, None], there


def mean_sizes(rooms: SituationSet) -> Float32[Tensor, "kinds 3"]:
    """Return the mean size of the boxes of each kind; of all boxes where there is none.

    Published are those of ScanRefer's training scenes, for the same purpose.
    """
    sizes = rooms.boxes[:, 3:]
    totals = sizes.new_zeros(len(KINDS), 3).index_add(0, rooms.box_kinds, sizes)
    counts = torch.bincount(rooms.box_kinds, minlength=len(KINDS))[:, None]
    everything = sizes.mean(0) if len(sizes) else sizes.new_ones(3)
    return torch.where(counts > 0, totals / counts.clamp(min=1), everything)


def seen_room(
    rooms: SituationSet,
    item: int,
    count: int,
    seed: int,
    change: Change | None,
    *,
    erased: bool,
    detection: bool,
) -> dict[str, Tensor]:
    """Return what a model sees of an item's room, and what it is to find there.

    Args:
        rooms: The split.
        item: A question of it.
        count: Points that are seen.
        seed: Of all draws.
        change: How the room is changed; None at test.
        erased: As in ``seen_points``.
        detection: Whether objects are to be found there; else there are only what is seen and pose.
    """
    room = int(rooms.rooms[item])
    chosen = chosen_points(int(rooms.sizes[room]), count, seed)
    seen = seen_points(rooms, room, chosen, erased)
    points, pose = seen[:, :3], rooms.poses[item]
    move = None if change is None else drawn_move(seed, change)
    if move is not None:
        points, pose = moved(points, move), moved_pose(pose, move)
    objects = _objects(rooms, room, chosen, points, move) if detection else {}
    return {"points": points, "features": seen[:, 3:], "pose": pose, **objects}


def _objects(
    rooms: SituationSet,
    room: int,
    chosen: Int64[Tensor, " count"],
    points: Float32[Tensor, "count 3"],
    move: Move | None,
) -> dict[str, Tensor]:
    """Return the way from each point to its object, and the boxes of a room."""
    own, boxes = rooms.points_of(room), rooms.boxes[rooms.boxes_of(room)]
    ways, there = votes(points, rooms.objects[own][chosen].long(), rooms.kinds[own][chosen].long())
    boxes = boxes if move is None else moved_boxes(boxes, move)
    return {
        "ways": ways,
        "has_way": there,
        "centres": boxes[:, :3],
        "sizes": boxes[:, 3:],
        "kinds": rooms.box_kinds[rooms.boxes_of(room)],
    }


RAGGED = ("centres", "sizes", "kinds")


def stacked(seen: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the rooms of a batch as one tensor each, and which boxes there are: ``has_box``."""
    made = {
        name: filled([one[name] for one in seen])
        if name in RAGGED
        else torch.stack([one[name] for one in seen])
        for name in seen[0]
    }
    there = [torch.ones(len(one["kinds"])) for one in seen if "kinds" in one]
    return {**made, "has_box": filled(there)} if there else made


def filled(parts: Sequence[Tensor]) -> Tensor:
    """Return parts one above the other, 0 behind the shorter ones, with one place at least."""
    made = pad_sequence(list(parts), True)
    return made if made.shape[1] else made.new_zeros(len(parts), 1, *made.shape[2:])
