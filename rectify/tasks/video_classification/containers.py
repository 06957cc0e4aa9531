"""How long a file of a clip must be, by what its container says of itself.

The pieces that a file consists of say how long they are: the boxes of MP4 and QuickTime (ISO
14496-12), the segment of WebM and Matroska (EBML, RFC 8794), the chunks of AVI (RIFF). A file that
ends before its last piece does was cut; its clock cannot tell, since sound may be longer than the
pictures and a last picture may be held.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"

FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"moof", b"sidx")


def stored_length(path: Path) -> int:
    """Return how many bytes a file must have; 0 for a container that does not say it."""
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] == EBML:
            return _matroska(file)
        if start[:4] == b"RIFF":
            return _pieces(file, path.stat().st_size, _chunk)
        if start[4:8] in FIRST_BOXES:
            return _pieces(file, path.stat().st_size, _box)
    return 0


def _pieces(file: BinaryIO, length: int, size: Callable[[bytes], int]) -> int:
    """Return where the last of the pieces that follow each other ends."""
    end = 0
    while end < length:
        file.seek(end)
        more = size(file.read(16))
        if more == 0:  # up to the end of the file, or something behind the last piece
            return end
        end += more
    return end


def _box(head: bytes) -> int:
    if not _is_box(head):
        return 0
    size = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if size == 1 else size


def _is_box(head: bytes) -> bool:
    """Return whether bytes begin a box: after its size four letters."""
    return len(head) >= 8 and head[4:8].isalpha() and head[4:8].isascii()


def _chunk(head: bytes) -> int:
    if head[:4] != b"RIFF" or len(head) < 8:
        return 0
    size = int.from_bytes(head[4:8], "little")
    return 8 + size + size % 2


def _matroska(file: BinaryIO) -> int:
    """Return where the segment ends, the second element of the file; 0 if it does not say."""
    file.seek(4)
    head = _number(file)
    if head is None:
        return 0
    file.seek(head, 1)
    if file.read(4) != SEGMENT:
        return 0
    size = _number(file)
    return 0 if size is None else file.tell() + size


def _number(file: BinaryIO) -> int | None:
    """Return a size as EBML stores it, 1 to 8 bytes; None if it is unknown: all bits are set."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + file.read(more), "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
