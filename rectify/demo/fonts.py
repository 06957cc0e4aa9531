"""Characters of the fonts that matplotlib ships, drawn as small grey images.

A glyph is rendered large, moved by one affine map into the middle of a canvas of three
times the wanted size, and averaged down: white on black, antialiased, never cut off.
"""

import functools
import math
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

FILL = 0.86  # share of the image that the longer side of an unscaled glyph takes
OVERSAMPLING = 3
INSIDE = 80  # grey level inside an outline; black would leave a line on each side of every line
SMALLEST = 0.3  # em
EDGE = 1.0  # pixels that stay free at each edge
ASCII = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")


@dataclass(frozen=True)
class Face:
    """One font file: a family in one style."""

    family: str
    style: str
    file: str

    @property
    def name(self) -> str:
        """Family and style."""
        return f"{self.family} {self.style}"


@dataclass(frozen=True)
class Pose:
    """How a glyph is laid into its image."""

    angle: float = 0.0
    """Degrees, counter-clockwise."""
    scale: float = 1.0
    """1 lets the longer side take ``FILL`` of the image."""
    shear: float = 0.0
    """Horizontal shift per unit of height; positive leans to the right."""
    right: float = 0.0
    down: float = 0.0
    """Shift of the centre in units of the image size; less where the glyph would be cut off."""


def _faces(family: str, prefix: str, styles: dict[str, str]) -> list[Face]:
    return [Face(family, style, f"{prefix}{end}.ttf") for style, end in styles.items()]


_DEJAVU = {"regular": "", "bold": "-Bold", "italic": "-Oblique", "bold italic": "-BoldOblique"}
_SERIF = {"regular": "", "bold": "-Bold", "italic": "-Italic", "bold italic": "-BoldItalic"}
_STIX = {"regular": "", "bold": "Bol", "italic": "Italic", "bold italic": "BolIta"}
_MODERN = {"roman": "r10", "bold": "b10", "sans": "ss10", "italic": "ti10", "typewriter": "tt10"}

FACES = (
    *_faces("DejaVu Sans", "DejaVuSans", _DEJAVU),
    *_faces("DejaVu Sans Mono", "DejaVuSansMono", _DEJAVU),
    *_faces("DejaVu Serif", "DejaVuSerif", _SERIF),
    *_faces("STIX", "STIXGeneral", _STIX),
)
MODERN = tuple(_faces("Computer Modern", "cm", _MODERN))
"""A family apart: its files hold letters and digits where their tables say so, but little else."""


@functools.cache
def characters(face: Face) -> frozenset[str]:
    """Return the characters that a face has, as far as Unicode names them."""
    with TTFont(_path(face), lazy=True) as font:
        covered = {chr(code) for code in font.getBestCmap()}
    named = frozenset(character for character in covered if unicodedata.name(character, ""))
    return named & ASCII if face in MODERN else named


@functools.cache
def legible(face: Face) -> list[str]:
    """Return the letters, numbers, punctuation marks and symbols of a face that are not tiny.

    A dot and a comma look alike once they fill the image.
    """
    return [
        character
        for character in sorted(characters(face))
        if unicodedata.category(character)[0] in "LNPS" and extent(character, face) >= SMALLEST
    ]


def draw(
    character: str,
    face: Face,
    size: int,
    pose: Pose = Pose(),
    *,
    stroke: int = 0,
    outline: bool = False,
) -> UInt8[np.ndarray, "{size} {size}"]:
    """Return a character as a square image, white on black.

    Args:
        character: One that the face has, see ``characters``.
        face: The font.
        size: Height and width of the image in pixels.
        pose: How the glyph is laid into the image.
        stroke: Sixtieths of an em by which each line is made thicker on either side.
        outline: Draw the edge of the thickened glyph white and its inside dark grey.
    """
    glyph = _glyph(character, face, 2 * size, round(stroke * 2 * size / 60), outline)
    canvas = OVERSAMPLING * size
    glyph = glyph.reduce(max(1, int(max(glyph.size) / (FILL * canvas * pose.scale))))
    a, b, c, d, right, down = _placement(glyph.size, pose, canvas)
    determinant = a * d - b * c
    inverse = d / determinant, -b / determinant, -c / determinant, a / determinant
    centre_x, centre_y = canvas / 2 + right, canvas / 2 + down
    offset_x = glyph.width / 2 - inverse[0] * centre_x - inverse[1] * centre_y
    offset_y = glyph.height / 2 - inverse[2] * centre_x - inverse[3] * centre_y
    matrix = (*inverse[:2], offset_x, *inverse[2:], offset_y)
    placed = glyph.transform(
        (canvas, canvas), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.asarray(placed.reduce(OVERSAMPLING))


def extent(character: str, face: Face) -> float:
    """Return the longer side of a glyph in units of the em; 0 for spaces."""
    box = _font(face, 64).getmask(character).getbbox()
    return max(box[2] - box[0], box[3] - box[1]) / 64 if box else 0.0


def _placement(glyph: tuple[int, int], pose: Pose, canvas: int) -> tuple[float, ...]:
    """Return the matrix from glyph to canvas by rows, and the shift, all in canvas pixels."""
    factor = FILL * canvas * pose.scale / max(glyph)
    cosine, sine = (turn(math.radians(pose.angle)) for turn in (math.cos, math.sin))
    a, b = cosine, sine - cosine * pose.shear
    c, d = -sine, cosine + sine * pose.shear
    half_width = (abs(a) * glyph[0] + abs(b) * glyph[1]) / 2
    half_height = (abs(c) * glyph[0] + abs(d) * glyph[1]) / 2
    room = canvas / 2 - EDGE * OVERSAMPLING
    factor = min(factor, room / half_width, room / half_height)
    right = _clamp(pose.right * canvas, room - factor * half_width)
    down = _clamp(pose.down * canvas, room - factor * half_height)
    return factor * a, factor * b, factor * c, factor * d, right, down


def _clamp(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


@functools.lru_cache(maxsize=4096)
def _glyph(character: str, face: Face, em: int, stroke: int, outline: bool) -> Image.Image:
    font = _font(face, em)
    left, top, right, bottom = font.getbbox(character, stroke_width=stroke)
    image = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
    ImageDraw.Draw(image).text(
        (2 - left, 2 - top), character, font=font, stroke_width=stroke,
        fill=INSIDE if outline else 255, stroke_fill=255,
    )  # fmt: skip
    box = image.getbbox()
    assert box is not None, f"U+{ord(character):04X} has no ink in {face.name}"
    return image.crop((box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1))


@functools.cache
def _font(face: Face, em: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(face), em, layout_engine=ImageFont.Layout.BASIC)


def _path(face: Face) -> Path:
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / face.file
