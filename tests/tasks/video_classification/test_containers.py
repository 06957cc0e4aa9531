"""How long a container says that its file is."""

import pytest

from rectify.tasks.video_classification.containers import stored_length
from tests.helpers.films import film


def vint(value: int, length: int) -> bytes:
    """Return a number as EBML stores a size, RFC 8794."""
    return (value | 1 << 7 * length).to_bytes(length, "big")


def box(kind: bytes, content: bytes, long: bool = False) -> bytes:
    size = len(content) + (16 if long else 8)
    if long:
        return (1).to_bytes(4, "big") + kind + size.to_bytes(8, "big") + content
    return size.to_bytes(4, "big") + kind + content


EBML = b"\x1a\x45\xdf\xa3" + vint(3, 1) + b"abc"
SEGMENT = b"\x18\x53\x80\x67"
FTYP = box(b"ftyp", b"isom" + 4 * b"\0")


@pytest.mark.parametrize(
    ("content", "length"),
    [
        *((EBML + SEGMENT + vint(40, n) + 40 * b"x", 8 + 4 + n + 40) for n in range(1, 9)),
        *((EBML + SEGMENT + vint(40, n) + 9 * b"x", 8 + 4 + n + 40) for n in range(1, 9)),
        *((EBML + SEGMENT + vint((1 << 7 * n) - 1, n) + 9 * b"x", 0) for n in (1, 8)),  # unknown
        (EBML + b"\xec" + vint(3, 1) + b"xyz", 0),  # no segment
        (EBML[:6], 0),
        (FTYP + box(b"mdat", 30 * b"x"), 16 + 38),
        (FTYP + box(b"mdat", 30 * b"x", long=True), 16 + 46),
        (FTYP + box(b"mdat", 30 * b"x")[:-7], 16 + 38),
        (FTYP + (0).to_bytes(4, "big") + b"mdat" + 30 * b"x", 16),  # up to the end, whatever it is
        (FTYP + box(b"moov", b"") + b"\0\0\0\0" + 50 * b"\0", 16 + 8),  # padding
        (FTYP + box(b"moov", b"") + b"a line of text behind it", 16 + 8),
        (b"RIFF" + (20).to_bytes(4, "little") + b"AVI " + 16 * b"x", 28),
        (b"RIFF" + (21).to_bytes(4, "little") + b"AVI " + 18 * b"x", 30),  # padded to even
        (2 * (b"RIFF" + (4).to_bytes(4, "little") + b"AVI "), 24),  # of more than a gigabyte
        (b"\x47" + 187 * b"x", 0),
        (b"", 0),
        (b"abc", 0),
    ],
)
def test_the_pieces_add_up(tmp_path, content, length):
    (tmp_path / "clip").write_bytes(content)
    assert stored_length(tmp_path / "clip") == length


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_files_of_ffmpeg_are_as_long_as_they_say(tmp_path, suffix):
    path = film(tmp_path / f"a{suffix}", frames=4)
    assert stored_length(path) == path.stat().st_size
