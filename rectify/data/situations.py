"""Questions asked from a place in a room: scans of rooms, situations in words and as a pose.

A prepared set is a folder as one of images (``rectify.data.sets``): ``manifest.csv`` lists every
question with its answer and its room; ``arrays.safetensors`` holds the tokens of situations and
questions, answers and poses, and what is ragged end to end: points and boxes by room. The tokens
are words, spaced from question marks and periods; vectors of words may be there, too. All lengths
are metres. A pose is a position and a unit quaternion (x, y, z, w), in the frame of the points.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int16, Int32, Int64, UInt8
from pandas import DataFrame
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rectify.data.arrays import opened
from rectify.data.manifests import (
    ARRAYS,
    CLASSES,
    LISTING,
    manifest,
    read_listing,
    write_listing,
)
from rectify.results.files import atomic_path

PADDING = 0
"""The token that stands where a text has none."""
NYU40 = {
    "cabinet": 3, "bed": 4, "chair": 5, "sofa": 6, "table": 7, "door": 8, "window": 9,
    "bookshelf": 10, "picture": 11, "counter": 12, "desk": 14, "curtain": 16, "refrigerator": 24,
    "shower curtain": 28, "toilet": 33, "sink": 34, "bathtub": 36,
}  # fmt: skip
"""Numbers in NYU40 of the kinds of objects that are told apart; all others are one more kind."""
NO_OBJECT = (1, 2, 22)
"""Of NYU40's numbers up to 40: wall, floor and ceiling; 0 is nothing that was annotated."""
KINDS = (*NYU40, "others")
FLOOR = 0.99 / 100
"""Share of a room's points below its floor: the published percentile is 0.99, not 99."""
WORTH = (0.0, 0.3, 0.6, 0.9, 1.0)
"""What an answer is worth that so many questions of the whole set have; four are as good as ten."""

Array = np.ndarray


@dataclass(frozen=True)
class Room:
    """One scan, its points turned so that walls are along the axes."""

    name: str
    points: Float32[Array, "points 3"]
    colours: UInt8[Array, "points 3"]
    objects: Int16[Array, " points"]
    """Number of the object that a point is of; 0 where nobody said."""
    kinds: UInt8[Array, " points"]
    """Kind of that object, as NYU40 numbers it."""
    boxes: Float32[Array, "boxes 6"]
    """Centre and size of each object, along the axes."""
    box_kinds: UInt8[Array, " boxes"]
    middle: Float64[Array, " 3"]
    """Of the scan's box before it was turned: where positions are counted from."""
    alignment: Float64[Array, "4 4"]
    """The turn and the shift that were applied to the scan."""


@dataclass(frozen=True)
class Situation:
    """One question as it was published or drawn."""

    number: int
    """``question_id``."""
    room: int
    """By its place in ``Told.rooms``."""
    situation: str
    question: str
    answer: str
    position: tuple[float, float, float]
    """Metres from ``Room.middle``, before the scan was turned."""
    rotation: tuple[float, float, float, float]
    """x, y, z, w."""


@dataclass(frozen=True)
class Told:
    """The questions of one split, before anything is made of them."""

    situations: Sequence[Situation]
    rooms: Sequence[Room]


@dataclass(frozen=True)
class SituationSet:
    """One split."""

    situations: Int32[Tensor, "items longest_situation"]
    """Numbers of words, ``PADDING`` after the end."""
    questions: Int32[Tensor, "items longest_question"]
    numbers: Int64[Tensor, " items"]
    answers: Int64[Tensor, " items"]
    """Places in ``possible``."""
    worths: Float32[Tensor, " items"]
    """What a model learns of that answer, 0 .. 1."""
    poses: Float32[Tensor, "items 7"]
    rooms: Int64[Tensor, " items"]
    points: Float32[Tensor, "all_points 3"]
    colours: UInt8[Tensor, "all_points 3"]
    objects: Int16[Tensor, " all_points"]
    kinds: UInt8[Tensor, " all_points"]
    """As NYU40 numbers them."""
    sizes: Int64[Tensor, " scans"]
    """How many points each room has."""
    boxes: Float32[Tensor, "all_boxes 6"]
    box_kinds: Int64[Tensor, " all_boxes"]
    """Places in ``KINDS``."""
    counts: Int64[Tensor, " scans"]
    """How many boxes each room has."""
    vectors: Float32[Tensor, "words dim"]
    """Of the words by their number; none of any length where a model learns its own."""
    possible: tuple[str, ...]
    """All answers that may be given."""
    words: tuple[str, ...]
    """All words by their number."""

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def _point_ends(self) -> list[int]:
        return [0, *self.sizes.cumsum(0).tolist()]

    @cached_property
    def _box_ends(self) -> list[int]:
        return [0, *self.counts.cumsum(0).tolist()]

    @cached_property
    def floors(self) -> list[float]:
        """Height of each room's floor, metres: hardly any points are lower."""
        rooms = (self.points[self.points_of(room), 2] for room in range(len(self.sizes)))
        return [float(np.percentile(heights.numpy(), 100 * FLOOR)) for heights in rooms]

    def points_of(self, room: int) -> slice:
        """Return where the points of a room are."""
        return slice(*self._point_ends[room : room + 2])

    def boxes_of(self, room: int) -> slice:
        """Return where the boxes of a room are."""
        return slice(*self._box_ends[room : room + 2])


NAMED = ("possible", "words")
FIELDS = tuple(one.name for one in fields(SituationSet) if one.name not in NAMED)


def spoken(text: str) -> list[str]:
    """Return the words of a text: split at spaces, question marks and periods being words."""
    return text.replace("?", " ?").replace(".", " .").split()


def first_word(question: str) -> str:
    """Return the first word of a question in small letters, which is its type."""
    return question.lower().split()[0] if question.split() else ""


def worth(count: int) -> float:
    """Return what an answer is worth in training that so many questions have."""
    return WORTH[min(count, len(WORTH) - 1)]


def kind_of(nyu40: Array) -> Int64[Array, " objects"]:
    """Return the place in ``KINDS`` of each number of NYU40."""
    places = {number: place for place, number in enumerate(NYU40.values())}
    return np.array([places.get(int(one), len(NYU40)) for one in nyu40], np.int64)


def pose_in_points(one: Situation, room: Room) -> Float64[Array, " 7"]:
    """Return a position and a rotation in the frame of the room's points.

    Of a quaternion and its negative, which are the same rotation, it is the one whose largest
    entry is positive, so that a model can learn it.
    """
    placed = np.array([*(np.array(one.position) + room.middle), 1.0])
    turned = Rotation.from_matrix(room.alignment[:3, :3]) * Rotation.from_quat(one.rotation)
    return np.concatenate([(room.alignment @ placed)[:3], signed(turned.as_quat())])


def signed(quaternions: Float[Array, "*items 4"]) -> Float[Array, "*items 4"]:
    """Return quaternions, or their negatives, so that the largest entry of each is positive."""
    place = np.abs(quaternions).argmax(-1)[..., None]
    return quaternions * np.sign(np.take_along_axis(quaternions, place, -1))


def gathered(
    told: Told,
    possible: Sequence[str],
    worths: Mapping[str, float],
    words: Mapping[str, int],
    vectors: Float32[Tensor, "words dim"],
) -> SituationSet:
    """Return a split as tensors.

    Args:
        told: Its questions.
        possible: Answers that may be given; all of the split are among them.
        worths: What each is worth in training.
        words: Numbers of the words; all of the split are among them.
        vectors: Of the words; of length 0 where there are none.
    """
    numbers = {answer: number for number, answer in enumerate(possible)}
    asked, rooms = told.situations, told.rooms

    def tokens(texts: Sequence[str]) -> Tensor:
        rows = [torch.tensor([words[one] for one in spoken(text)] or [PADDING]) for text in texts]
        return pad_sequence(rows, True, PADDING).int()

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(room, name) for room in rooms]))

    poses = np.stack([pose_in_points(one, rooms[one.room]) for one in asked])
    return SituationSet(
        situations=tokens([one.situation for one in asked]),
        questions=tokens([one.question for one in asked]),
        numbers=torch.tensor([one.number for one in asked]),
        answers=torch.tensor([numbers[one.answer] for one in asked]),
        worths=torch.tensor([worths[one.answer] for one in asked]),
        poses=torch.from_numpy(poses).float(),
        rooms=torch.tensor([one.room for one in asked]),
        points=joined("points"),
        colours=joined("colours"),
        objects=joined("objects"),
        kinds=joined("kinds"),
        sizes=torch.tensor([len(room.points) for room in rooms]),
        boxes=joined("boxes"),
        box_kinds=torch.from_numpy(kind_of(np.concatenate([room.box_kinds for room in rooms]))),
        counts=torch.tensor([len(room.boxes) for room in rooms]),
        vectors=vectors.clone(),  # a file holds no tensor twice
        possible=tuple(possible),
        words=tuple(words),
    )


def listing_of(told: Mapping[str, Told], possible: Sequence[str]) -> DataFrame:
    """Return the manifest of the splits: the class of a question is its answer."""
    numbers = {answer: number for number, answer in enumerate(possible)}
    return manifest(
        (split, numbers[item.answer], item.answer, one.rooms[item.room].name)
        for split, one in told.items()
        for item in one.situations
    )


def save_situations(
    folder: Path, sets: Mapping[str, SituationSet], listing: DataFrame, provenance: dict
) -> None:
    """Write the splits of a set; the manifest comes last.

    Args:
        folder: Gets ``manifest.csv``, its note and ``arrays.safetensors``.
        sets: By split.
        listing: Their manifest.
        provenance: What ``rectify.results.provenance.provenance`` returned.
    """
    tensors = {
        f"{split}.{name}": getattr(one, name).contiguous()
        for split, one in sets.items()
        for name in FIELDS
    }
    any_of_them = next(iter(sets.values()))
    names = {name: getattr(any_of_them, name) for name in NAMED}
    spoken_names = json.dumps(names, ensure_ascii=False)  # one text: several have no fixed order
    with atomic_path(Path(folder) / ARRAYS) as temporary:
        save_file(tensors, temporary, {"names": spoken_names})
    possible = json.dumps(any_of_them.possible, ensure_ascii=False)
    digest = hashlib.sha256(possible.encode()).hexdigest()
    facts = {**provenance["facts"], CLASSES: digest}
    write_listing(folder, listing, {**provenance, "facts": facts})


def load_situations(folder: Path, split: str) -> SituationSet:
    """Return one split of a prepared set.

    Raises:
        ValueError: If the split does not exist, or the files are damaged or don't belong together.
    """
    listing, _ = read_listing(folder)
    with opened(folder, split) as file:
        tensors = {name: file.get_tensor(f"{split}.{name}") for name in FIELDS}
        stored = json.loads(file.metadata()["names"])
        names = {name: tuple(stored[name]) for name in NAMED}
    rows = int((listing["split"] == split).sum())
    if len(tensors["numbers"]) != rows:
        raise ValueError(
            f"{folder}: {LISTING} and {ARRAYS} must list the same items of {split}, got {rows} and "
            f"{len(tensors['numbers'])}. Prepare the data set again."
        )
    return SituationSet(**tensors, **names)
