"""Sets in tables of the Hugging Face hub: what ``datasets`` saves to disk, and Parquet files.

    dataset_dict.json, <split>/state.json     of ``DatasetDict.save_to_disk``
    state.json, data-*.arrow                  of ``Dataset.save_to_disk``
    *.parquet, at any depth                   whose names or folders may say the split

Images are in the tables themselves. A column is found by what it holds, or named.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rectify.data import rows
from rectify.results.files import read_json
from rectify.tasks.readers import few
from rectify.tasks.splits import role_within

if TYPE_CHECKING:
    from pyarrow import DataType, Schema

IMAGE, LABEL, NUMBER, TEXT, TEXTS = "image", "label", "number", "text", "texts"
USUAL = ("image", "label", "caption", "text")
"""Names that decide where several columns hold the same."""


class Column(NamedTuple):
    """What a column holds."""

    name: str
    kind: str | None
    """One of the five, or None."""
    classes: tuple[str, ...] = ()
    """Their names in the order of their numbers, where the table has them."""


def parts(folder: Path) -> dict[str, list[Path]]:
    """Return the tables of each split, by its name; of a set without splits as that of ``""``.

    Raises:
        ValueError: If there is no table, a table is missing, or only some say their split.
    """
    if (folder / "dataset_dict.json").is_file():
        content = read_json(folder / "dataset_dict.json")
        names = content.get("splits") if isinstance(content, dict) else None
        if not _are_names(names):
            raise ValueError(
                f"{folder / 'dataset_dict.json'}: must name the splits, got {names!r}. Save the "
                "set again."
            )
        return {name: _arrow_files(folder / name) for name in names}
    if (folder / "state.json").is_file():
        return {"": _arrow_files(folder)}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        inside = path.relative_to(folder)
        if not any(part.startswith(".") for part in inside.parts):
            names = (path.stem, *reversed(inside.parts[:-1]))
            found.setdefault(next(filter(None, map(role_within, names)), ""), []).append(path)
    if not found:
        raise ValueError(
            f"{folder}: must hold Parquet files or what `save_to_disk` of datasets writes, got "
            "neither. Put the set there, or correct the folder in the config."
        )
    if "" in found and len(found) > 1:
        raise ValueError(
            f"{folder}: each Parquet file must say its split, got {found[''][0].name} beside "
            f"others that do. Name it as train-0.parquet, or move it away."
        )
    return found


def columns(files: Sequence[Path]) -> list[Column]:
    """Return the columns of tables, which must have the same.

    Raises:
        ValueError: If a table is damaged, or two have other columns.
    """
    first = _columns(rows.schema(files[0]))
    for path in files[1:]:
        if _columns(rows.schema(path)) != first:
            raise ValueError(
                f"{path}: must have the columns of {files[0].name}, got others. Move it away."
            )
    return first


def chosen(
    where: Path, known: Sequence[Column], what: str, kinds: Sequence[str], name: str | None
) -> Column:
    """Return the one column of a kind, or the named one.

    Args:
        where: Folder of the set.
        known: Its columns.
        what: Key of ``sizes`` that names the column.
        kinds: What it may hold; of the first that a column holds it is one.
        name: The named one.

    Raises:
        ValueError: If there is no such column, or several.
    """
    if name is not None:
        fitting = [column for column in known if column.name == name and column.kind in kinds]
        if not fitting:
            raise ValueError(
                f"{where}: {what} must be a column of {' or '.join(kinds)}, got {name}. Columns "
                f"are {_described(known)}."
            )
        return fitting[0]
    for kind in kinds:
        fitting = [column for column in known if column.kind == kind]
        usual = [column for column in fitting if column.name in USUAL]
        if len(fitting) == 1 or len(usual) == 1:
            return fitting[0] if len(fitting) == 1 else usual[0]
        if fitting:
            break
    raise ValueError(
        f"{where}: must have one column of {' or '.join(kinds)}, got "
        f"{few([column.name for column in fitting]) or 'none'}. Name it as {what} in sizes: "
        f"columns are {_described(known)}."
    )


def items(folder: Path, files: Sequence[Path], image: str, *others: str) -> Iterator[tuple]:
    """Give the source of each image, and the values of other columns in its row.

    Raises:
        ValueError: If a table is damaged.
    """
    for path in files:
        values = [rows.column(path, name) for name in others]
        inside = f"{path.relative_to(folder)}"
        for row, found in enumerate(zip(*values, strict=True)):
            yield rows.name(inside, image, row), *found


def _arrow_files(folder: Path) -> list[Path]:
    state = read_json(folder / "state.json")
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") for entry in entries or () if isinstance(entry, dict)]
    if not _are_names(names):
        raise ValueError(
            f"{folder / 'state.json'}: must name the files of the table, got {names!r}. Save the "
            "set again."
        )
    return [folder / name for name in names]


def _are_names(names: object) -> bool:
    """Return whether a value is a list of names of files, none of them elsewhere."""
    return (
        isinstance(names, list)
        and bool(names)
        and all(isinstance(name, str) and name and Path(name).name == name for name in names)
    )


def _columns(schema: "Schema") -> list[Column]:
    features = _features(schema)
    return [_column(field.name, field.type, features.get(field.name)) for field in schema]


def _features(schema: "Schema") -> Mapping[str, object]:
    """Return what ``datasets`` says of the columns, in the metadata of the table."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        features = about["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, Mapping) else {}


def _column(name: str, kind: "DataType", feature: object) -> Column:
    known = feature if isinstance(feature, Mapping) else {}
    names = known.get("names")
    if known.get("_type") == "ClassLabel" and isinstance(names, list):
        return Column(name, LABEL, tuple(map(str, names)))
    return Column(name, next((label for label, fits in _kinds().items() if fits(kind)), None))


def _kinds() -> dict[str, "Callable[[DataType], bool]"]:
    from pyarrow import types

    def is_text(kind: "DataType") -> bool:
        return types.is_string(kind) or types.is_large_string(kind)

    def is_list(kind: "DataType") -> bool:
        return types.is_list(kind) or types.is_large_list(kind)

    def is_image(kind: "DataType") -> bool:
        if types.is_struct(kind):
            place = kind.get_field_index("bytes")
            return place >= 0 and is_image(kind.field(place).type)
        return types.is_binary(kind) or types.is_large_binary(kind)

    return {
        IMAGE: is_image,
        NUMBER: types.is_integer,
        TEXT: is_text,
        TEXTS: lambda kind: is_list(kind) and is_text(kind.value_type),
    }


def _described(known: Sequence[Column]) -> str:
    return ", ".join(f"{column.name} ({column.kind or 'other'})" for column in known)
