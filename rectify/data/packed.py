"""Images of a set in one Arrow file, made small once: fewer pixels to decode at every epoch.

The file is a stream of record batches with a column of encoded images, in the order of the
manifest. It is mapped into memory, so that any image is at hand; ``rectify.data.rows`` reads it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image

from rectify.data import rows
from rectify.data.images import content, read_image
from rectify.results.files import atomic_path

PACKED = "images.arrow"
COLUMN = "image"
QUALITY = 95  # of JPEG, with colours at full resolution
BATCH = 1000


def write(folder: Path, files: Path, sources: Sequence[str], side: int, threads: int) -> None:
    """Write the images of a set, those that are larger than needed resized.

    Args:
        folder: Gets the file.
        files: Folder that the sources are named from.
        sources: Of the images, in the order of the manifest.
        side: Length of the shorter side of a resized image, in pixels.
        threads: That read, resize and write.
    """
    import pyarrow as pa

    schema = pa.schema([(COLUMN, pa.binary())])
    with (
        atomic_path(Path(folder) / PACKED) as temporary,
        pa.OSFile(f"{temporary}", "wb") as file,
        pa.ipc.new_stream(file, schema) as stream,
    ):
        for images in _encoded(files, sources, side, threads):
            stream.write_batch(pa.record_batch([pa.array(images, pa.binary())], schema=schema))


def source(folder: Path, item: int) -> Path:
    """Return the path of an item's image, as ``rectify.data.images`` takes it."""
    return Path(folder) / rows.name(PACKED, COLUMN, item)


def _encoded(files: Path, sources: Sequence[str], side: int, threads: int) -> Iterator[list[bytes]]:
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(sources), BATCH):
            paths = [files / name for name in sources[start : start + BATCH]]
            yield [*pool.map(partial(_small, side=side), paths)]


def _small(path: Path, side: int) -> bytes:
    """Return an image as JPEG with a shorter side of so many pixels, or as it is if it has less."""
    image = read_image(path)
    shorter = min(image.size)
    if shorter <= side:
        return content(path)
    width, height = (int(side * length / shorter) for length in image.size)
    file = BytesIO()
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    small.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
