"""Single images: read as RGB whatever their mode, and found if they are not whole."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from rectify.data.images import digests, read_image, unreadable


def test_an_unreadable_image_is_named(tmp_path):
    folder = tmp_path
    kinds_of_images()["rgb.bmp"].save(folder / "a b.png")
    whole = (folder / "a b.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no image")
    for name in ("cut.png", "text.png", "absent.png"):
        with pytest.raises(ValueError, match=rf"{name}: must be an intact image, got ") as caught:
            read_image(folder / name)
        assert "\n" not in str(caught.value)


def kinds_of_images() -> dict[str, Image.Image]:
    """Return an image in each mode that data sets hold, by a file name that can store it."""
    noise = np.random.default_rng(1).integers(0, 256, (31, 27, 4), dtype=np.uint8)
    colours, grey = Image.fromarray(noise[..., :3]), Image.fromarray(noise[..., 0])
    return {
        "rgb.jpg": colours,
        "grey.jpg": grey,
        "cmyk.jpg": colours.convert("CMYK"),
        "palette.png": colours.convert("P"),
        "alpha.png": Image.fromarray(noise),
        "grey-alpha.png": Image.fromarray(noise).convert("LA"),
        "one-bit.png": grey.convert("1"),
        "rgb.webp": colours,
        "rgb.bmp": colours,
    }


@pytest.mark.parametrize("name", kinds_of_images())
def test_every_kind_of_image_becomes_rgb_exactly_as_pillow_makes_it(tmp_path, name):
    image = kinds_of_images()[name]
    image.save(tmp_path / name)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == image.mode or name == "rgb.webp"
        expected = np.array(stored.convert("RGB"))
    assert np.array_equal(np.array(read_image(tmp_path / name)), expected)
    assert unreadable(tmp_path, [name], threads=1) == []


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
def test_a_transparent_palette_keeps_pillows_colours(tmp_path):
    kinds_of_images()["palette.png"].save(tmp_path / "p.png", transparency=b"\x00\x80")
    with Image.open(tmp_path / "p.png") as stored:
        expected = np.array(stored.convert("RGB"))
    assert np.array_equal(np.array(read_image(tmp_path / "p.png")), expected)


@pytest.mark.parametrize("name", kinds_of_images())
def test_an_image_cut_anywhere_is_unreadable(tmp_path, name):
    kinds_of_images()[name].save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    cuts = [round(len(whole) * share) for share in (0, 0.2, 0.5, 0.7, 0.85)]
    for cut in cuts:
        (tmp_path / f"{cut} of {name}").write_bytes(whole[:cut])
    names = [name, *(f"{cut} of {name}" for cut in cuts)]
    assert unreadable(tmp_path, names, threads=2) == names[1:]


def test_unreadable_files_come_in_their_order_whatever_the_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr("rectify.data.images.CHUNK", 3)
    names = [f"{item}.png" for item in range(10)]
    for item, name in enumerate(names):
        if item % 4:
            (tmp_path / name).write_text("no image")
        elif item:
            kinds_of_images()["rgb.bmp"].save(tmp_path / name)  # by its content, not its name
    bad = [name for item, name in enumerate(names) if item % 4 or not item]
    assert unreadable(tmp_path, names, threads=1) == bad
    assert unreadable(tmp_path, names, threads=4) == bad


def test_an_absurdly_large_image_is_refused_by_name(tmp_path, monkeypatch):
    kinds_of_images()["rgb.jpg"].save(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"a\.jpg: must be an intact image, got Image size"):
        read_image(tmp_path / "a.jpg")
    assert unreadable(tmp_path, ["a.jpg"], threads=1) == ["a.jpg"]


RAMP = np.arange(0, 65536, 97, dtype=np.uint16)[:672].reshape(24, 28)
DEEP = {"png": "png", "big": "tif", "little": "tif", "pgm": "pgm"}


def write_sixteen_bits(path, values, kind):
    """Write grey values of 16 bits, TIFF in either byte order by hand."""
    if kind in ("png", "pgm"):
        Image.fromarray(values).save(path)
        return
    order, letter = (b"II", "<") if kind == "little" else (b"MM", ">")
    height, width = values.shape
    content = values.astype(f"{letter}u2").tobytes()
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, len(content)),
    ]  # fmt: skip
    listed = b"".join(
        struct.pack(f"{letter}HHI" + ("HH" if kind == 3 else "I"), tag, kind, 1,
                    *((value, 0) if kind == 3 else (value,)))
        for tag, kind, value in tags
    )  # fmt: skip
    head = order + struct.pack(f"{letter}HI", 42, 8 + len(content))
    tail = struct.pack(f"{letter}H", len(tags)) + listed + struct.pack(f"{letter}I", 0)
    path.write_bytes(head + content + tail)


@pytest.mark.parametrize("kind", DEEP)
def test_sixteen_bits_give_their_high_byte(tmp_path, kind):
    path = tmp_path / f"deep.{DEEP[kind]}"
    write_sixteen_bits(path, RAMP, kind)
    found = np.array(read_image(path))
    assert np.array_equal(found, np.repeat((RAMP // 256)[..., None], 3, 2))
    assert len(np.unique(found)) > 200
    assert unreadable(tmp_path, [path.name], threads=1) == []


def test_colours_of_sixteen_bits_give_their_high_byte(tmp_path):
    """Written by hand: Pillow has no colours of 16 bits."""
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.array_equal(np.array(read_image(tmp_path / "a.png")), values // 256)
    assert unreadable(tmp_path, ["a.png"], threads=1) == []


def test_floats_are_scaled_from_the_unit_interval(tmp_path):
    values = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    Image.fromarray(values).save(tmp_path / "a.tif")
    expected = [[round(255 * float(value)) for value in row] for row in values]
    assert np.array(read_image(tmp_path / "a.tif"))[..., 1].tolist() == expected
    assert unreadable(tmp_path, ["a.tif"], threads=1) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((3, 4), 7, np.int32), "grey values of 32 bits"),
        (np.float32([[0, 200]]), r"floats from 0 to 200, not in 0\.\.1"),
        (np.float32([[-0.5, 1]]), r"floats from -0\.5 to 1, not in 0\.\.1"),
        (np.float32([[np.nan, 1]]), r"floats from nan to nan, not in 0\.\.1"),
    ],
)
def test_greys_without_a_meaning_are_refused_and_found(tmp_path, values, reason):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif: must be an intact image, got {reason}\. "):
        read_image(tmp_path / "a.tif")
    assert unreadable(tmp_path, ["a.tif"], threads=1) == ["a.tif"]


def test_a_picture_is_taken_as_it_is_stored_whatever_its_orientation(tmp_path):
    image = kinds_of_images()["rgb.jpg"]
    for orientation in (1, 3, 6, 8):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / f"{orientation}.jpg", exif=exif, quality=95)
        found = read_image(tmp_path / f"{orientation}.jpg")
        assert found.size == image.size
        assert np.array_equal(np.array(found), np.array(read_image(tmp_path / "1.jpg")))


def photograph(size):
    """Return a picture as smooth and as detailed as a photograph."""
    across, down = np.meshgrid(np.linspace(0, 7, size), np.linspace(0, 9, size))
    waves = np.stack([np.sin(across * down), np.cos(across + down), np.sin(3 * across - down)], 2)
    noise = np.random.default_rng(size).normal(0, 0.1, waves.shape)
    return Image.fromarray(((waves + noise).clip(-1, 1) * 127 + 128).astype(np.uint8))


FORMATS = {
    "baseline.jpg": {"quality": 90},
    "progressive.jpg": {"quality": 90, "progressive": True},
    "thumbnail.jpg": {"comment": b"\xff\xd8\xff\xd9" * 9},  # its end is not the picture's
    "a.png": {},
    "lossy.webp": {"quality": 80},
    "lossless.webp": {"lossless": True},
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [40, 130, 300])
def test_a_file_of_full_length_that_ends_in_zeros_is_found(tmp_path, name, size):
    photograph(size).save(tmp_path / name, **FORMATS[name])
    whole = (tmp_path / name).read_bytes()
    names = [name]
    for share in (0.3, 0.5, 0.7, 0.9, 0.97):
        kept = int(share * len(whole))
        names.append(f"{share} of {name}")
        (tmp_path / names[-1]).write_bytes(whole[:kept] + bytes(len(whole) - kept))
    assert unreadable(tmp_path, names, threads=2) == names[1:]


@pytest.mark.parametrize("name", FORMATS)
def test_flat_pictures_and_bytes_behind_the_end_are_whole(tmp_path, name):
    names = []
    for value in (0, 7, 128, 255):
        for size in (1, 16, 257, 600):
            names.append(f"{value} {size} {name}")
            Image.new("RGB", (size, size), (value, 0, value)).save(
                tmp_path / names[-1], **FORMATS[name]
            )
    if name.endswith("jpg"):  # padding, or what phones append
        names += ["padded.jpg", "video.jpg"]
        whole = (tmp_path / names[0]).read_bytes()
        (tmp_path / "padded.jpg").write_bytes(whole + bytes(500))
        (tmp_path / "video.jpg").write_bytes(whole + b"ftypmp42" + bytes(50))
    assert unreadable(tmp_path, names, threads=2) == []


def test_digests_are_of_the_pixels(tmp_path):
    photograph(20).save(tmp_path / "a.png")
    photograph(20).save(tmp_path / "b.bmp")
    photograph(21).save(tmp_path / "c.png")
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "d.png")
    Image.fromarray(np.zeros((3, 2, 3), np.uint8)).save(tmp_path / "e.png")
    made = digests(tmp_path, ["a.png", "b.bmp", "c.png", "d.png", "e.png"], threads=2)
    assert made[0] == made[1]
    assert len(set(made)) == 4
