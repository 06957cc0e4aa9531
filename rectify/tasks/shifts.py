"""The test sets of a prepared set: the plain one, and its shifted versions.

An embedded set has its shifts among its splits, as ``test-<shift>[/<condition>/<severity>]``; a
set in files has them in folders of their own next to its manifest, ``shift-<shift>``.
"""

from collections.abc import Iterator
from pathlib import Path

from rectify.data.manifests import check_same_labels
from rectify.data.sets import FileSet, ImageSet, load_sets
from rectify.tasks.entry import Entry


def prepared_sets(entry: Entry, folder: Path) -> Iterator[tuple[str, str, ImageSet | FileSet]]:
    """Give name, group and items of each test set, the plain one first.

    Raises:
        ValueError: If a shifted set is not prepared, or numbers its classes in another way.
    """
    for split, items in load_sets(folder, "test"):
        yield *named(split), items
    for shift in entry.shift_names:
        place = shift_folder(folder, shift)
        check_same_labels(folder, place)
        for split, items in load_sets(place, f"test-{shift}"):
            yield *named(split), items


def shift_folder(folder: Path, shift: str) -> Path:
    """Return the folder of a shifted test set, next to the manifest of its set."""
    return folder / f"shift-{shift}"


def named(split: str) -> tuple[str, str]:
    """Return name and group: of ``test-c/noise/3`` c and noise/3, of ``test`` test and -."""
    name, _, group = split.partition("/")
    return name.removeprefix("test-"), group or "-"
