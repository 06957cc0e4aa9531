"""BAR, Biased Action Recognition: ``train`` and ``test`` with files ``<class>_<n>.<suffix>``.

Where ``metadata.json`` lies next to them, class and split of every file must agree with it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectify.results.files import read_json
from rectify.tasks.image_classification.folders import (
    check_classes,
    check_present,
    images,
    label_of,
)
from rectify.tasks.readers import Row, check_count, few

if TYPE_CHECKING:
    from pandas import DataFrame

EMBEDDED = IN_MEMORY = False
COMPLETE = {("train",): 1_941, ("test",): 654}
CLASSES = {
    "climbing": (326, 105),
    "diving": (520, 159),
    "fishing": (163, 42),
    "pole vaulting": (279, 131),
    "racing": (336, 132),
    "throwing": (317, 85),
}
"""Items for training and for the test, as the authors state them."""


def read(folder: Path) -> list[Row]:
    """Return the items of training and test.

    Raises:
        ValueError: If a folder or a class is missing, or the metadata disagree.
    """
    source = "BAR, Biased Action Recognition (https://github.com/alinlab/BAR)"
    check_present(folder, [folder / "train", folder / "test"], source)
    files = {split: images(folder / split) for split in ("train", "test")}
    classes = sorted({_action(name) for name in files["train"]})
    rows = []
    for split, names in files.items():
        for name in names:
            label = label_of(_action(name), classes, folder / split / name)
            rows.append(Row(split, label, _action(name), f"{split}/{name}"))
    check_classes(folder, rows, classes)
    if (folder / "metadata.json").is_file():
        _check_metadata(folder / "metadata.json", rows)
    return rows


def check(data: str, listing: "DataFrame") -> None:
    """Check the items of each class.

    Raises:
        ValueError: Names the first class that differs.
    """
    counts = listing.groupby(["name", "split"]).size()
    for name, expected in CLASSES.items():
        counted = tuple(int(counts.get((name, split), 0)) for split in ("train", "test"))
        check_count(data, f"{expected[0]} and {expected[1]} items of {name}", counted, expected)


def _action(name: str) -> str:
    return name.rpartition("_")[0]


def _check_metadata(path: Path, rows: Sequence[Row]) -> None:
    entries = read_json(path)
    if not isinstance(entries, dict) or not all(map(_is_entry, entries.items())):
        raise ValueError(
            f"{path}: must give cls and train of each file by its name, got something else. "
            "Get the data set again."
        )
    listed = {stem: (entry["train"], entry["cls"]) for stem, entry in entries.items()}
    present = {Path(row.source).stem: (row.split == "train", row.name) for row in rows}
    stems = listed.keys() | present.keys()
    wrong = sorted(stem for stem in stems if listed.get(stem) != present.get(stem))
    if wrong:
        raise ValueError(
            f"{path}: class and split of each file must be as listed, got {len(wrong)} missing, "
            f"unlisted or in another place: {few(wrong)}. Get the data set again."
        )


def _is_entry(item: tuple[str, object]) -> bool:
    stem, entry = item
    return stem.isprintable() and isinstance(entry, dict) and {"cls", "train"} <= entry.keys()
