"""Questions asked from the middle of a drawn room: SQA3D in miniature.

In a room are four to six boxes on a grey floor: three kinds once, a fourth one to three times, of
six kinds that differ in size, all of a room in one of four colours. Somebody stands in the middle,
faces a kind that is there once, and asks one question of each type:

    What color is the furniture?             red, green, blue, white
    Is the furniture red?                    yes, no: it is in every other room
    Which of red and blue is the furniture?  one of the two
    How many chairs are there?               one, two, three
    Can I see the sofa?                      yes, no: it is before me, or behind
    On which side of me is the table?        left, right

Left and right are told evenly, before and behind nearly so. The words alone tell nothing more than
the type and, of two colours, which two. Three types ask for what is everywhere in the room, so that
a small model gets to know it within seconds; the others are for those that find the objects.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from scipy.spatial.transform import Rotation

from rectify.data.situations import NYU40, Room, Situation, Told
from rectify.runtime import seed_for

SIZES = {
    "bed": (2.0, 1.6, 0.5), "chair": (0.5, 0.5, 0.9), "sofa": (1.8, 0.9, 0.8),
    "table": (1.2, 0.8, 0.75), "cabinet": (0.8, 0.4, 1.9), "toilet": (0.5, 0.6, 0.4),
}  # fmt: skip
"""Metres, of the kinds of objects."""
COLOURS = {
    "red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "white": (200, 200, 200)
}  # fmt: skip
"""Each as far from each other."""
GREY = (128, 128, 128)
NOISE = 12  # of a colour
CELL = 2.2  # metres; a room has 3 x 3 of them, and somebody in the middle one
JITTER = 0.1
SINGLES, MOST = 3, 3
ON_FLOOR = 0.2  # of the points
FLOOR = 2  # of NYU40
NUMBERS = ("one", "two", "three")
YES_NO = ("yes", "no")

Array = np.ndarray


class Box(NamedTuple):
    """One object."""

    kind: str
    centre: tuple[float, float, float]
    size: tuple[float, float, float]


def rooms(
    *, seed: int = 0, train_rooms: int = 500, test_rooms: int = 150, stored: int = 640
) -> dict[str, Told]:
    """Return train and test, six questions in each room.

    Args:
        seed: Of every draw.
        train_rooms: Training rooms.
        test_rooms: Test rooms.
        stored: Points of each room.
    """
    counts = {"train": train_rooms, "test": test_rooms}
    return {split: _split(split, count, stored, seed) for split, count in counts.items()}


def _split(split: str, count: int, points: int, seed: int) -> Told:
    random = np.random.default_rng(seed_for(seed, "rooms", split))
    drawn, asked = [], []
    for number in range(count):
        boxes, colour = _boxes(random), list(COLOURS)[int(random.integers(len(COLOURS)))]
        room = _scanned(f"{split}{number:04}_00", boxes, COLOURS[colour], points, random)
        drawn.append(room)
        asked += _asked(number, room, boxes, colour, random)
    return Told(asked, drawn)


def _boxes(random: np.random.Generator) -> list[Box]:
    """Return the objects of a room: those of three kinds, then those of the counted kind."""
    kinds = random.permutation(list(SIZES)).tolist()
    shown = kinds[:SINGLES] + [kinds[SINGLES]] * int(random.integers(1, MOST + 1))
    cells = [(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0)]
    places = random.permutation(len(cells))[: len(shown)]
    return [_box(kind, cells[place], random) for kind, place in zip(shown, places, strict=True)]


def _box(kind: str, cell: tuple[int, int], random: np.random.Generator) -> Box:
    """Return an object in a cell, along one axis or the other."""
    long, broad, high = SIZES[kind]
    size = (long, broad, high) if random.random() < 0.5 else (broad, long, high)
    x, y = (CELL * place + JITTER * random.uniform(-1, 1) for place in cell)
    return Box(kind, (x, y, high / 2), size)


def _scanned(
    name: str,
    boxes: Sequence[Box],
    colour: tuple[int, int, int],
    points: int,
    random: np.random.Generator,
) -> Room:
    """Return the scan of a room: its points in random order, and how it was turned."""
    owners = random.integers(1, len(boxes) + 1, points)
    owners[random.random(points) < ON_FLOOR] = 0
    places, colours = np.empty((points, 3), np.float32), np.empty((points, 3), np.uint8)
    for number in range(len(boxes) + 1):
        own = owners == number
        box = boxes[number - 1] if number else None
        many = int(own.sum())
        places[own] = _on_floor(many, random) if box is None else _on(box, many, random)
        colours[own] = _painted(GREY if box is None else colour, many, random)
    kinds = np.array([FLOOR, *(NYU40[box.kind] for box in boxes)], np.uint8)
    alignment = np.eye(4)
    turn = Rotation.from_euler("z", random.uniform(-180, 180), degrees=True)
    alignment[:3, :3], alignment[:2, 3] = turn.as_matrix(), random.uniform(-1, 1, 2)
    plain = unaligned(places, alignment)
    return Room(
        name,
        points=places,
        colours=colours,
        objects=owners.astype(np.int16),
        kinds=kinds[owners],
        boxes=np.array([(*box.centre, *box.size) for box in boxes], np.float32),
        box_kinds=kinds[1:],
        middle=(plain.max(0).astype(float) + plain.min(0)) / 2,
        alignment=alignment,
    )


def unaligned(
    points: Float32[Array, "points 3"], alignment: Float64[Array, "4 4"]
) -> Float32[Array, "points 3"]:
    """Return points as they were before a scan was turned."""
    return ((points - alignment[:3, 3]) @ alignment[:3, :3]).astype(np.float32)


def _on_floor(count: int, random: np.random.Generator) -> Float64[Array, "count 3"]:
    return random.uniform(-1.5 * CELL, 1.5 * CELL, (count, 3)) * (1, 1, 0)


def _on(box: Box, count: int, random: np.random.Generator) -> Float64[Array, "count 3"]:
    """Return points on the top and the sides of a box, evenly by area."""
    size = np.array(box.size)
    areas = np.array([2 * size[1] * size[2], 2 * size[0] * size[2], size[0] * size[1]])
    axes = random.choice(3, count, p=areas / areas.sum())
    within = random.uniform(-0.5, 0.5, (count, 3))
    sides = np.where(axes == 2, 0.5, random.choice([-0.5, 0.5], count))
    within[np.arange(count), axes] = sides
    return np.array(box.centre) + within * size


def _painted(
    colour: tuple[int, int, int], count: int, random: np.random.Generator
) -> UInt8[Array, "count 3"]:
    noisy = np.array(colour) + NOISE * random.standard_normal((count, 3))
    return noisy.round().clip(0, 255).astype(np.uint8)


def _asked(
    number: int, room: Room, boxes: Sequence[Box], colour: str, random: np.random.Generator
) -> list[Situation]:
    """Return the six questions of a room, all from one place."""
    singles, counted = boxes[:SINGLES], boxes[SINGLES:]
    faced = singles[int(random.integers(SINGLES))]
    sides = [box for box in singles if box is not faced]
    seen, beside = (sides[int(n)] for n in random.integers(len(sides), size=2))
    here = np.array([*random.uniform(-JITTER, JITTER, 2), 0.0])
    yaw = float(np.arctan2(faced.centre[1] - here[1], faced.centre[0] - here[0]))
    is_it = number % 2 == 0
    others = [name for name in COLOURS if name != colour]
    named = colour if is_it else others[int(random.integers(len(others)))]
    two = random.permutation([colour, others[int(random.integers(len(others)))]]).tolist()
    ahead, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    is_ahead = ahead @ (np.array(seen.centre) - here)[:2] > 0
    is_left = left @ (np.array(beside.centre) - here)[:2] > 0
    posed = {
        "What color is the furniture?": colour,
        f"Is the furniture {named}?": YES_NO[not is_it],
        f"Which of {two[0]} and {two[1]} is the furniture?": colour,
        f"How many {counted[0].kind}s are there?": NUMBERS[len(counted) - 1],
        f"Can I see the {seen.kind}?": YES_NO[not is_ahead],
        f"On which side of me is the {beside.kind}?": ("left", "right")[not is_left],
    }
    situation = f"I am standing in the middle of the room and facing the {faced.kind}."
    position, rotation = _published(room, here, yaw)
    return [
        Situation(len(posed) * number + place, number, situation, *one, position, rotation)
        for place, one in enumerate(posed.items())
    ]


def _published(
    room: Room, here: Float64[Array, " 3"], yaw: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a pose as it is published: from the middle of the scan before it was turned."""
    turn = room.alignment[:3, :3]
    position = (here - room.alignment[:3, 3]) @ turn - room.middle
    rotation = Rotation.from_matrix(turn).inv() * Rotation.from_euler("z", yaw)
    return tuple(position.tolist()), tuple(rotation.as_quat().tolist())
