"""Preparing the masks of a set's test images: each is found, checked, and matched with its image.

In files a mask has the class folder and the name of its image; those of a set that is drawn are
drawn into such files.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from pandas import DataFrame
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from rectify.data.images import read_image
from rectify.data.sets import FileSet, ImageSet, load_set
from rectify.results.declared import MASKS
from rectify.results.files import atomic_path
from rectify.tasks.image_classification.folders import check_present, folders, images
from rectify.tasks.image_classification.masks import FOLDER, IGNORED, decoded, encoded
from rectify.tasks.image_classification.readers.imagenet import MASKS as PUBLISHED
from rectify.tasks.image_classification.settings import Settings
from rectify.tasks.preparation import arguments
from rectify.tasks.readers import check_count

log = logging.getLogger(__name__)

Test = ImageSet | FileSet
Row = tuple[int, int, str, str]
"""Of a table `MASKS`: item, number, name, source."""


def prepare(
    name: str, entry: Settings, data: Path, folder: Path, threads: int
) -> tuple[DataFrame, Path]:
    """Return the rows of a table `MASKS`, and the folder that its sources are named from.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        data: Folder of the prepared set.
        folder: Of the prepared masks; drawn ones are written there.
        threads: That look at the masks.

    Raises:
        ValueError: If a mask is missing or damaged, has no image of its size, or a wrong number.
    """
    test, place = load_set(data, "test"), folder
    if entry.masks is None:
        _draw(entry, test, folder)
    else:
        place = Path(entry.masks)
        check_present(place, [place / FOLDER], "ImageNet-S (github.com/LUSSeg/ImageNet-S)")
    classes = [path.name for path in folders(place / FOLDER)]
    rows = _rows(name, place, classes, test)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(_check, place, len(classes), test), rows))
    if entry.full:
        expected = PUBLISHED.get(len(classes), "another number of classes")
        check_count(
            name, "752, 4,097 or 12,419 masks of 50, 300 or 919 classes", len(rows), expected
        )
    log.info("%s: %d masks of %d classes", name, len(rows), len(classes))
    return DataFrame(rows, columns=MASKS.names), place


def _draw(entry: Settings, test: Test, folder: Path) -> None:
    """Write the masks that an embedded set draws, under the names of its test images."""
    drawn = entry.reader_module.draw_masks(**arguments(entry))
    for mask, label, source in zip(drawn, test.names, test.sources, strict=True):
        path = folder / FOLDER / label / f"{Path(source).stem}.png"
        with atomic_path(path) as temporary:
            encoded(torch.from_numpy(mask)).save(temporary)


def _rows(name: str, place: Path, classes: list[str], test: Test) -> list[Row]:
    """Return the masks in a folder, each with its image: the one of its class and name."""
    keys = (
        (label, Path(source).stem) for label, source in zip(test.names, test.sources, strict=True)
    )
    items = {key: item for item, key in enumerate(keys)}
    rows: list[Row] = []
    for number, label in enumerate(classes, 1):
        for file in images(place / FOLDER / label):
            source, key = f"{Path(FOLDER, label, file)}", (label, Path(file).stem)
            if key not in items:
                raise ValueError(
                    f"{place / source}: a mask must have a test image of its class and name in "
                    f"{name}, got none. Complete the images, or move the mask away."
                )
            rows.append((items[key], number, label, source))
    if not rows:
        raise ValueError(
            f"{place / FOLDER}: must hold one folder of masks per class, got no mask. Complete it."
        )
    return rows


def _check(place: Path, classes: int, test: Test, row: Row) -> None:
    """Check that a mask has the size of its image, and numbers of classes alone."""
    item, _, _, source = row
    mask = pil_to_tensor(read_image(place / source))
    if isinstance(test, ImageSet):
        height, width = test.images.shape[-2:]
    else:
        with Image.open(test.folder / test.sources[item]) as image:
            width, height = image.size
    if mask.shape[1:] != (height, width):
        raise ValueError(
            f"{place / source}: a mask must have the size of its image, {width} x {height}, got "
            f"{mask.shape[2]} x {mask.shape[1]}. Get the two again."
        )
    numbers = decoded(mask)
    wrong = numbers[(numbers > classes) & (numbers != IGNORED)]
    if len(wrong):
        raise ValueError(
            f"{place / source}: the numbers in a mask must lie in 0..{classes}, the classes that "
            f"have a folder, or be {IGNORED}, got {int(wrong[0])}. Complete the masks."
        )
