"""Preparing the masks of a set's test clouds: the set has them; each cloud is listed."""

from pathlib import Path

from pandas import DataFrame

from rectify.data.clouds import load_clouds
from rectify.results.declared import MASKS
from rectify.tasks.point_classification.masks import OBJECT
from rectify.tasks.point_classification.settings import Settings


def prepare(
    name: str, entry: Settings, data: Path, folder: Path, threads: int
) -> tuple[DataFrame, Path]:
    """Return the rows of a table `MASKS`, and the folder that holds the points.

    Args:
        name: Of the set, for messages.
        entry: Its settings.
        data: Folder of the prepared set.
        folder: Of the prepared masks.
        threads: Not needed.

    Raises:
        ValueError: If nobody knows the points of the objects, or every point is of one.
    """
    test = load_clouds(data, "test")
    if test.objects is None or test.objects.all():
        found = "none" if test.objects is None else "objects alone"
        raise ValueError(
            f"{name}: the mask of test clouds must tell objects from what is around them, got "
            f"{found}. Get files with the array mask, or take away what reads its filtering."
        )
    rows = [
        (item, OBJECT, test.classes[label], source)
        for item, (label, source) in enumerate(zip(test.labels.tolist(), test.sources, strict=True))
    ]
    return DataFrame(rows, columns=MASKS.names), data
