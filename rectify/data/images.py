"""Single images as they are stored: read as RGB, and checked to their last byte.

An image is a file, or a row of a table of images (``rectify.data.rows``). It is taken as it is
stored: an EXIF orientation turns nothing. Grey values of 16 bits give their high byte, floats in
0 .. 1 are scaled to 0 .. 255, and what has more than 8 bits otherwise is not read.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from rectify.data import rows

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is cut short, damaged, no image or absurdly large."""
CHUNK = 10_000
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
END_OF_JPEG, SCAN_OF_JPEG = b"\xff\xd9", 0xDA
BLANK = 16  # zeros in which a small WebP may end
Result = TypeVar("Result")


def read_image(path: Path) -> Image.Image:
    """Return an image as RGB, whatever its mode.

    Args:
        path: A file, or one followed by ``#`` and a row.

    Raises:
        ValueError: If the file is missing, cut short, no image, or of values that have no grey.
    """
    try:
        with Image.open(BytesIO(content(path))) as image:
            return _coloured(image)
    except UNREADABLE as error:
        raise ValueError(
            f"{path}: must be an intact image, got {str(error).splitlines()[0]}. "
            "Replace the file and prepare the data set again."
        ) from None


def unreadable(folder: Path, sources: Sequence[str], threads: int) -> list[str]:
    """Return the images that are missing or cannot be decoded to their end, in their order."""
    intact = _each(_is_intact, folder, sources, threads)
    return [name for name, good in zip(sources, intact, strict=True) if not good]


def digests(folder: Path, sources: Sequence[str], threads: int) -> list[str]:
    """Return a digest of the pixels of each image, whatever its format."""
    return [*_each(_digest, folder, sources, threads)]


def content(path: Path) -> bytes:
    """Return the bytes of an image in a file of its own, or in a row of a table."""
    place = rows.place(path)
    return path.read_bytes() if place is None else rows.image(*place)


def _digest(path: Path) -> str:
    image = read_image(path)
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()


def _each(
    function: Callable[[Path], Result], folder: Path, sources: Sequence[str], threads: int
) -> Iterator[Result]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(sources), CHUNK):
            paths = [folder / name for name in sources[start : start + CHUNK]]
            yield from pool.map(function, paths)


def _coloured(image: Image.Image) -> Image.Image:
    if image.mode in (*SIXTEEN_BITS, "I", "F"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(image: Image.Image) -> np.ndarray:
    """Return the grey of an image with more than 8 bits, in 0 .. 255."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"floats from {low:g} to {high:g}, not in 0..1")
        return np.rint(values * 255).astype(np.uint8)
    if image.mode == "I" and image.format != "PPM":  # whose plugin gives 16 bits in 32
        raise ValueError("grey values of 32 bits")
    return (values >> 8).astype(np.uint8)


def _is_intact(path: Path) -> bool:
    try:
        stored = content(path)
        with Image.open(BytesIO(stored)) as image:
            kind, pixels = image.format, image.width * image.height
            image.draft("RGB", (1, 1))  # JPEG: to its end, but at an eighth of its size
            image.load()
            if image.mode in ("I", "F"):
                _grey(image)
        if kind == "PNG":
            with Image.open(BytesIO(stored)) as image:
                image.verify()  # checksums, which loading ignores
        return not _lost_its_end(kind, stored, pixels)
    except UNREADABLE:
        return False


def _lost_its_end(kind: str | None, stored: bytes, pixels: int) -> bool:
    """Return whether a file ends in zeros in place of what was there: they decode to pixels.

    Within and after the scans of a JPEG, its end mark can mean nothing else. WebP has no mark, but
    its coder writes about one zero for 10,000 pixels that are all alike, and few else.
    """
    zeros = len(stored) - len(stored.rstrip(b"\0"))
    if kind == "WEBP":
        return zeros > BLANK + pixels // 5_000
    if not zeros or kind not in ("JPEG", "MPO"):
        return False
    place = 2
    while place + 4 <= len(stored) and stored[place + 1] != SCAN_OF_JPEG:
        place += 2 + int.from_bytes(stored[place + 2 : place + 4], "big")
    return stored.find(END_OF_JPEG, place) < 0
