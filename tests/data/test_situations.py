"""Situated questions: words, worths, poses in the frame of the points, and what is kept on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from rectify.data.situations import (
    FIELDS,
    KINDS,
    NAMED,
    NYU40,
    PADDING,
    SituationSet,
    Told,
    first_word,
    gathered,
    kind_of,
    listing_of,
    load_situations,
    pose_in_points,
    save_situations,
    signed,
    spoken,
    worth,
)
from rectify.demo.rooms import CELL, rooms
from rectify.results.provenance import provenance

TOLD = rooms(seed=0, train_rooms=3, test_rooms=2, stored=30)


def made(told: Told) -> SituationSet:
    texts = [text for one in told.situations for text in (one.situation, one.question)]
    words = ["<pad>", *sorted({word for text in texts for word in spoken(text)})]
    possible = sorted({one.answer for one in told.situations})
    numbers = {word: number for number, word in enumerate(words)}
    vectors = torch.arange(3.0 * len(words)).view(-1, 3)
    return gathered(told, possible, dict.fromkeys(possible, 0.6), numbers, vectors)


def test_words_are_split_at_spaces_and_before_marks() -> None:
    assert spoken("Is it  on my left? No. U.S.") == [
        "Is", "it", "on", "my", "left", "?", "No", ".", "U", ".S", "."
    ]  # fmt: skip
    assert first_word("What's this?") == "what's"
    assert first_word("WHICH side") == "which"


def test_an_answer_is_worth_what_four_questions_are() -> None:
    assert [worth(count) for count in (0, 1, 2, 3, 4, 5000)] == [0, 0.3, 0.6, 0.9, 1, 1]


def test_kinds_are_nyu40_s_and_one_more() -> None:
    assert len(KINDS) == 18
    numbers = np.array([3, 36, 38, 39, 13, 40, *NYU40.values()])
    expected = [0, 16, 17, 17, 17, 17, *range(17)]
    assert kind_of(numbers).tolist() == expected


def test_of_a_quaternion_and_its_negative_one_is_taken() -> None:
    turns = Rotation.random(50, rng=0).as_quat()
    found = signed(turns)
    assert np.array_equal(found, signed(-turns))
    assert (np.take_along_axis(found, np.abs(found).argmax(1)[:, None], 1) > 0).all()
    assert np.allclose(Rotation.from_quat(found).as_matrix(), Rotation.from_quat(turns).as_matrix())


def test_a_pose_in_the_frame_of_the_points_faces_what_it_faces() -> None:
    """Whoever asks is in the middle of a drawn room, and looks at what the situation names."""
    for told in TOLD.values():
        for one in told.situations:
            room = told.rooms[one.room]
            x, y, z, *rotation = pose_in_points(one, room)
            assert max(abs(x), abs(y)) < 0.11
            assert z == pytest.approx(0, abs=1e-6)
            faced = one.situation.split()[-1].rstrip(".")
            (box,) = room.boxes[room.box_kinds == NYU40[faced]]
            ahead = Rotation.from_quat(rotation).apply([1.0, 0.0, 0.0])
            way = box[:2] - (x, y)
            assert ahead[:2] @ way / np.linalg.norm(way) == pytest.approx(1, abs=1e-4)
            assert np.abs(room.points[:, :2]).max() < 1.5 * CELL + 1


def test_a_split_has_what_its_questions_and_rooms_have() -> None:
    told = TOLD["train"]
    kept = made(told)
    assert len(kept) == len(told.situations) == 18
    for item, one in enumerate(told.situations):
        for texts, text in ((kept.situations, one.situation), (kept.questions, one.question)):
            numbers = texts[item][texts[item] != PADDING].tolist()
            assert [kept.words[number] for number in numbers] == spoken(text)
        assert kept.possible[kept.answers[item]] == one.answer
        assert kept.numbers[item] == one.number
        room = told.rooms[int(kept.rooms[item])]
        place = kept.points_of(int(kept.rooms[item]))
        assert np.array_equal(kept.points[place].numpy(), room.points)
        assert np.array_equal(kept.colours[place].numpy(), room.colours)
        boxes = kept.boxes_of(int(kept.rooms[item]))
        assert np.array_equal(kept.boxes[boxes].numpy(), room.boxes)
        assert kept.box_kinds[boxes].tolist() == kind_of(room.box_kinds).tolist()


def written(folder: Path) -> Path:
    sets = {"train": made(TOLD["train"])}
    listing = listing_of({"train": TOLD["train"]}, sets["train"].possible)
    save_situations(folder, sets, listing, provenance(0))
    return folder


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    kept, found = made(TOLD["train"]), load_situations(written(tmp_path), "train")
    assert all(torch.equal(getattr(kept, name), getattr(found, name)) for name in FIELDS)
    assert all(getattr(kept, name) == getattr(found, name) for name in NAMED)


def cut(folder: Path) -> None:
    path = folder / "arrays.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def shorten(folder: Path) -> None:
    one = Told(TOLD["train"].situations[:-1], TOLD["train"].rooms)
    kept = replace(made(TOLD["train"]))
    listing = listing_of({"train": one}, kept.possible)
    save_situations(folder, {"train": kept}, listing, provenance(0))


@pytest.mark.parametrize(
    ("damage", "split", "said"),
    [
        (cut, "train", "must be an intact safetensors file with split train, got"),
        (shorten, "train", "must list the same items of train, got 17 and 18"),
        (lambda folder: None, "test", "must be an intact safetensors file with split test, got"),
    ],
)
def test_each_damage_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], split: str, said: str
) -> None:
    damage(written(tmp_path))
    with pytest.raises(ValueError, match=said) as caught:
        load_situations(tmp_path, split)
    assert "\n" not in str(caught.value)
