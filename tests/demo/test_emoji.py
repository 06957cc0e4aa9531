import csv
import itertools
import unicodedata
from pathlib import Path

import pytest
import torch

from rectify.demo import emoji as module
from rectify.demo.emoji import COLOUR, NOTO, Style, characters, draw, emoji, emoji_pairs, kind
from tests.helpers.packages import demo_packages
from tests.helpers.tiny_checkpoints import error_of


@pytest.fixture(scope="module")
def folder() -> Path:
    return demo_packages()


@pytest.fixture(scope="module")
def sets(folder):
    return emoji(folder, image_size=28, frequent=8)


def test_the_emoji_are_those_that_both_fonts_have(folder):
    found = characters(folder)
    assert len(found) == 1_159
    assert found == sorted(set(found))
    assert {"\N{CAT}", "\N{SLICE OF PIZZA}"} <= set(found)
    assert not set(found) & {"\N{EMOJI MODIFIER FITZPATRICK TYPE-3}", "\N{BLACK SUN WITH RAYS}"}


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        ("\N{CAT}", "animal"),
        ("\N{GRINNING FACE}", "face"),
        ("\N{SLICE OF PIZZA}", "prepared food"),
        ("\N{STEAM LOCOMOTIVE}", "vehicle"),
        ("\N{VIOLIN}", "music"),
        ("\N{BANANA}", "fruit"),
        ("\N{CYCLONE}", "weather"),
    ],
)
def test_kinds_are_what_one_would_say(character, expected):
    assert kind(character) == expected


def test_rows_of_kinds_are_in_order():
    lines = (Path(module.__file__).parent / "emoji_kinds.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    firsts = [int(row["first"], 16) for row in rows]
    assert firsts == sorted(set(firsts))
    assert all(one["kind"] != other["kind"] for one, other in itertools.pairwise(rows))


def test_classes_are_the_frequent_kinds_in_both_splits(folder, sets):
    counts = {}
    for character in characters(folder):
        counts[kind(character)] = counts.get(kind(character), 0) + 1
    frequent = sorted(name for name, count in counts.items() if count >= 8)
    assert len(frequent) == 38
    for split in sets.values():
        assert list(split.classes) == frequent
        found = split.labels.bincount(minlength=38).tolist()
        assert found == [counts[name] for name in frequent]
        assert split.images.shape == (1_098, 3, 28, 28)


def test_training_is_in_colours_and_the_test_in_lines(sets):
    colours = (sets["train"].images.amax(1) != sets["train"].images.amin(1)).flatten(1).any(1)
    assert colours.float().mean() > 0.9
    assert torch.equal(sets["test"].images[:, 0], sets["test"].images[:, 2])
    assert sets["train"].sources[0].endswith("in OpenMoji")
    assert sets["test"].sources[0].endswith("in Noto Emoji 500")
    for split in sets.values():  # white around, ink inside, and no two alike but for twins
        assert (split.images.flatten(1).amin(1) < 200).all()
        assert (split.images[:, :, 0, 0] > 200).float().mean() > 0.95
        assert len({image.numpy().tobytes() for image in split.images}) > 1_080


def test_a_heavier_style_has_more_ink(folder):
    styles = [Style(f"Noto Emoji {weight}", NOTO, weight) for weight in (300, 700)]
    light, bold = (draw("\N{CAT}", style, folder, 28).mean() for style in styles)
    assert bold < light - 5


def test_an_emoji_fills_the_middle_of_its_square(folder):
    image = torch.from_numpy(draw("\N{FULL MOON SYMBOL}", COLOUR, folder, 40))
    inked = (image < 200).any(0)
    rows, columns = (inked.any(axis).nonzero()[:, 0] for axis in (1, 0))
    for places in (rows, columns):
        assert abs(places.min() + places.max() - 39) <= 1
        assert 0.88 * 40 <= places.max() - places.min() + 1 <= 0.97 * 40


@pytest.mark.slow
def test_pairs_are_colour_pictures_with_their_names(folder):
    pairs = emoji_pairs(folder, image_size=28, seed=0, items=1_024)["pairs"]
    assert len(pairs) == len(set(pairs.captions)) == 1_024
    for place in range(0, 1_024, 100):
        character = chr(int(pairs.sources[place].split()[0].removeprefix("U+"), 16))
        assert pairs.captions[place] == unicodedata.name(character).lower()
        expected = draw(character, COLOUR, folder, 28)
        assert torch.equal(pairs.images[place], torch.from_numpy(expected))
    again = emoji_pairs(folder, image_size=28, seed=0, items=100)["pairs"]
    assert again.captions == pairs.captions[:100]
    other = emoji_pairs(folder, image_size=28, seed=1, items=100)["pairs"]
    assert other.captions != again.captions


def test_more_pairs_than_emoji_are_refused(folder):
    message = error_of(lambda: emoji_pairs(folder, image_size=28, seed=0, items=2_000))
    assert "must not exceed the 1159 emoji" in message


def test_missing_fonts_are_named_with_what_to_do(tmp_path):
    message = error_of(lambda: emoji(tmp_path, image_size=28, frequent=8))
    assert "glyf_colr0.ttf" in message
    assert "make packages" in message
