"""Readers by name: a module of a task's folder ``readers`` that lists or draws one kind of set.

A reader is one file, ``readers/<name>.py``, with

    EMBEDDED    the set is drawn or comes with a package: no folder, images at the model's size
    IN_MEMORY   its arrays are kept in one file; otherwise the items stay in their own files
    read        read(folder, **sizes) -> rows of a manifest, or in memory splits of arrays
    COMPLETE    optional: counts of the published set, by splits that are counted together
    complete    optional: complete(**sizes), these counts where they depend on sizes
    check       optional: check(data, listing), what else holds for the published set
    read_shift  optional: read_shift(folder, shift, place), rows of a shifted test set
    draw_masks  optional, of an embedded set: draw_masks(**sizes), the masks of its test images
    CLOUDS      optional, of pairs: whether what has a caption is a cloud of points
    MASKED      optional: variants whose items say which of their points are of the object

Readers are imported when a configuration is checked, so they import torch inside ``read``.
"""

import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, get_args

from rectify.typed import nearest

if TYPE_CHECKING:
    from pandas import DataFrame

GIVEN = ("folder", "image_size", "frames", "points")
"""Arguments of ``read`` that have keys of their own."""
SHOWN = 3  # names in a message


class Row(NamedTuple):
    """One item of a manifest."""

    split: str
    label: int
    """Class, or -1 where there is none."""
    name: str
    """Of the class; or a caption."""
    source: str
    """File, relative to the folder of the set; or how the item was drawn."""


def names(package: str) -> list[str]:
    """Return the names of the readers in a package."""
    folder = Path(importlib.import_module(package).__path__[0])
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def find(package: str, name: str) -> ModuleType:
    """Return a reader.

    Raises:
        ValueError: If the package has no such reader.
    """
    known = names(package)
    if name not in known:
        raise ValueError(
            f"reader must be one of {', '.join(known)} (files of {package}), got {name!r}. "
            f"{nearest(name, known)}"
        )
    return importlib.import_module(f"{package}.{name}")


def arguments(reader: ModuleType) -> tuple[str, ...]:
    """Return the names of everything that a reader can be told."""
    return tuple(inspect.signature(reader.read).parameters)


def default(reader: ModuleType, argument: str) -> object:
    """Return what an argument of a reader is where the configuration says nothing."""
    return inspect.signature(reader.read).parameters[argument].default


def _types(reader: ModuleType, argument: str) -> tuple[object, ...]:
    """Return the types that an argument of a reader may have."""
    annotation = inspect.signature(reader.read).parameters[argument].annotation
    return (annotation, *get_args(annotation))


def check(reader: ModuleType, *, folder: str | None, full: bool, sizes: dict, shifts: bool) -> None:
    """Check that a reader gets what it needs, and nothing that would have no effect.

    Raises:
        ValueError: Names the key of the data set.
    """
    name, known = reader.__name__.rpartition(".")[2], arguments(reader)
    sizable = [key for key in known if key not in GIVEN]
    if unknown := sorted(set(sizes) - set(sizable)):
        raise ValueError(
            f"sizes of {name} must be among {', '.join(sizable) or 'none'}, got {unknown[0]}. "
            f"{nearest(unknown[0], sizable)}"
        )
    for key, value in sizes.items():
        is_text = str in _types(reader, key)
        if isinstance(value, str) != is_text:
            raise ValueError(
                f"sizes of {name}: {key} must be {'a name' if is_text else 'a number'}, got "
                f"{value!r}. Correct it."
            )
    if (folder is not None) == reader.EMBEDDED:
        rule = "no folder: it is drawn" if reader.EMBEDDED else "a folder"
        raise ValueError(f"reader {name} must have {rule}, got {folder or 'none'}. Correct folder.")
    if full and not hasattr(reader, "COMPLETE"):
        raise ValueError(
            f"only a published set can be full, got reader {name}. Take the key full away."
        )
    if shifts and not hasattr(reader, "read_shift"):
        raise ValueError(
            f"reader {name} must have no shifts, since it reads none from folders, got some. "
            "Take the key shifts away."
        )


def few(names: Sequence[str]) -> str:
    """Return the first names of a list, as a message shows them."""
    return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"


def check_complete(data: str, reader: ModuleType, listing: "DataFrame") -> None:
    """Check that a set holds what was published, no less and no more.

    Args:
        data: Name of the set in the config.
        reader: How it was read.
        listing: Its manifest, or that of one of its shifted test sets.

    Raises:
        ValueError: Names the first count or list that differs.
    """
    kinds = listing["split"].str.partition("/")[0]  # the conditions of one shift together
    shifted = kinds.str.startswith("test-").all()
    for splits, expected in reader.COMPLETE.items():
        items = int(kinds.isin(splits).sum())
        if items or not (shifted or splits[0].startswith("test-")):
            check_count(data, f"{expected:,} items in {' and '.join(splits)}", items, expected)
    if hasattr(reader, "check"):
        reader.check(data, listing)


def check_count(data: str, rule: str, found: object, expected: object) -> None:
    """Check one property of a published set.

    Raises:
        ValueError: If ``found`` is not as ``expected``.
    """
    if found != expected:
        raise ValueError(
            f"{data}: the full set must have {rule}, got {found}. "
            f"Complete the files, or set data.{data}.full to false in the config."
        )
