"""The published data sets in miniature: generated files of the real formats and names."""

import hashlib
import io
import pickle
from pathlib import Path

import numpy as np
from PIL import Image

from rectify.tasks.image_classification.readers.bar import CLASSES as BAR
from rectify.tasks.image_classification.readers.imagenet import CORRUPTIONS, synsets

CLASSES = 6


class OfPython2(pickle.Pickler):
    """Writes arrays as NumPy did in 2009: module of that time, numbers in place of bool."""

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            return np.dtype, (value.str[1:], 0, 1), value.__reduce__()[2]
        return NotImplemented


def picture(path: Path, value: int = 0, size: tuple[int, int] = (5, 4)) -> None:
    """Write an image of one colour; its size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value // 2, 255 - value)).save(path)


def pickled(value) -> bytes:
    """Return a pickle as Python 2 wrote it."""
    buffer = io.BytesIO()
    OfPython2(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def write_cifar(
    folder: Path, classes: int = 3, train: int = 6, test: int = 3, **changed: bytes
) -> dict[str, str]:
    """Write CIFAR-100's Python version; return the digests of its files."""
    random = np.random.default_rng(0)
    names = ["apple", "aquarium fish", *(f"class {n}" for n in range(classes))][:classes]
    content = {"meta": pickled({"fine_label_names": names})}
    for split, items in (("train", train), ("test", test)):
        data = random.integers(0, 256, (items, 3072), dtype=np.uint8)
        labels = [item % classes for item in range(items)]
        files = [f"{split}_{item}.png" for item in range(items)]
        content[split] = pickled({"data": data, "fine_labels": labels, "filenames": files})
    content |= changed
    folder.mkdir(parents=True, exist_ok=True)
    for name, written in content.items():
        (folder / name).write_bytes(written)
    return {name: hashlib.md5(written).hexdigest() for name, written in content.items()}


def write_imagenet(root: Path, classes: int = CLASSES) -> None:
    """Write ``imagenet`` and ``imagenet-{c,a,sketch,r}``; the last two letters' sets have fewer."""
    names = synsets("train")[:classes]
    places = {"imagenet/train": 4, "imagenet/val": 2, "imagenet-sketch": 1}
    places |= {"imagenet-a": 1, "imagenet-r": 1}
    levels = range(1, 6)
    places |= {f"imagenet-c/{name}/{level}": 1 for name in CORRUPTIONS for level in levels}
    for place, items in places.items():
        size = (28, 28) if "-c/" in place else (50, 40)
        held = names[1:] if place in ("imagenet-a", "imagenet-r") else names
        for label, name in enumerate(held):
            for item in range(items):
                picture(root / place / name / f"{name}_{item}.JPEG", 40 * label, size)
    picture(root / "imagenet-c" / "spatter" / "1" / names[0] / "x.JPEG")


def write_caltech(folder: Path, classes: int = CLASSES, items: int = 5) -> None:
    """Write ``256_ObjectCategories`` with its clutter and a stray entry."""
    names = ["ak47", "american-flag", *(f"class-{number}" for number in range(classes))][:classes]
    for number, name in [*enumerate(names, 1), (257, "clutter")]:
        for item in range(1, items + 1):
            place = folder / f"{number:03}.{name}" / f"{number:03}_{item:04}.jpg"
            picture(place, 40 * number % 256, (30 + item, 40))
    Image.new("L", (35, 31), 90).save(folder / "001.ak47" / "001_0001.jpg")  # some are grey
    (folder / "001.ak47" / "greg").mkdir()


def write_bar(folder: Path, train: int = 3, test: int = 2) -> None:
    """Write BAR's flat folders, one of its classes with a space."""
    for label, name in enumerate(BAR):
        for item in range(train + test):
            split = "train" if item < train else "test"
            picture(folder / split / f"{name}_{item}.jpg", 40 * label, (33, 30 + item))
