"""Result tables: declared once, written with a description, checked when read.

Every ``.csv`` is tidy, sorted by its key and printed with nine significant digits; the
``.csv.json`` beside it says what it means, its columns with units, and where it came from.
A file appears whole or not at all: it is written under a temporary name in the same
folder, flushed to disk and renamed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series
from pandas.api.types import is_integer_dtype, is_numeric_dtype

from rectify.results.files import atomic_path, read_json, write_json

STORED = ".9g"  # how numbers are written
DTYPES = {"str": "str", "int64": "int64", "float64": "float64", "bool": "bool"}


@dataclass(frozen=True)
class Column:
    """One column of a table; only an ``optional`` one may have empty cells."""

    name: str
    dtype: str
    unit: str
    meaning: str
    optional: bool = False


@dataclass(frozen=True)
class Table:
    """A kind of result table; the ``key`` columns identify a row and give the order."""

    name: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def names(self) -> list[str]:
        """Column names in the order of the file."""
        return [column.name for column in self.columns]


def write_table(
    table: Table, rows: DataFrame | Sequence[tuple], path: Path, provenance: dict
) -> None:
    """Write ``rows`` as ``path`` and their description as ``path`` + ``.json``.

    Raises:
        ValueError: If columns, types, keys or empty cells are not as the table declares.
    """
    frame = DataFrame(rows) if isinstance(rows, DataFrame) else _frame(table, rows)
    checked = _checked(table, frame, f"{path}").sort_values(list(table.key), ignore_index=True)
    note = {
        "table": table.name,
        "meaning": table.meaning,
        "key": list(table.key),
        "columns": [asdict(column) for column in table.columns],
        "rows": len(checked),
        "provenance": provenance,
    }
    write_json(note_path(path), note)
    with atomic_path(path) as temporary:
        checked.to_csv(temporary, index=False, float_format=f"%{STORED}", lineterminator="\n")


def as_stored(frame: DataFrame) -> DataFrame:
    """Return a frame with the numbers that its file has, so that texts print what is in it."""
    floats = frame.select_dtypes("float64")
    return frame.assign(**{
        name: [float(format(number, STORED)) for number in floats[name]] for name in floats
    })  # fmt: skip


def read_table(table: Table, path: Path) -> DataFrame:
    """Return the rows of ``path``, checked against the table's declaration.

    Raises:
        ValueError: If the file is missing, or was written by another version.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: a {table.name} table must be here, got no file. "
            "Ask snakemake for this file, or run the command that writes it."
        )
    texts = {column.name: "str" for column in table.columns if column.dtype == "str"}
    empty = {column.name: [""] for column in table.columns if column.dtype != "str"}
    try:
        frame = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=empty)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: must be a {table.name} table, got {str(error).splitlines()[0]}. "
            "Name another file, or delete it and make it again."
        ) from None
    return _checked(table, frame, f"{path}")


def note_path(path: Path) -> Path:
    """Path of the description beside a table."""
    return Path(f"{path}.json")


def read_note(path: Path) -> dict[str, Any]:
    """Return the description that stands beside the table ``path``."""
    return read_json(note_path(path))


def _frame(table: Table, rows: Sequence[tuple]) -> DataFrame:
    return DataFrame(list(rows), columns=table.names)


def _checked(table: Table, frame: DataFrame, where: str) -> DataFrame:
    if list(frame.columns) != table.names:
        raise ValueError(
            f"{where}: columns of a {table.name} table must be {', '.join(table.names)}, "
            f"got {', '.join(map(str, frame.columns))}. Make the file again with this version."
        )
    for column in table.columns:
        _check_column(table, column, frame, where)
    frame = frame.astype({column.name: DTYPES[column.dtype] for column in table.columns})
    repeated = frame.duplicated(list(table.key))
    if repeated.any():
        first = ", ".join(map(str, frame.loc[repeated, list(table.key)].iloc[0]))
        raise ValueError(
            f"{where}: each {', '.join(table.key)} must stand once, got {first} twice. "
            "Make the file again."
        )
    return frame


def _check_column(table: Table, column: Column, frame: DataFrame, where: str) -> None:
    values = frame[column.name]
    if values.isna().any() and not column.optional:
        raise ValueError(
            f"{where}: column {column.name} of a {table.name} table must have a value in every "
            f"row, got {int(values.isna().sum())} empty. Make the file again."
        )
    wrong = [] if column.dtype == "str" else _not_of(column.dtype, values.dropna())
    if wrong:
        raise ValueError(
            f"{where}: column {column.name} of a {table.name} table must be {column.dtype}, "
            f"got {wrong[0]!r}. Make the file again."
        )


def _not_of(dtype: str, values: Series) -> list[Any]:
    """Return the values that a number type cannot hold as they are."""
    whole = dtype == "int64"
    if is_integer_dtype(values) or (is_numeric_dtype(values) and not whole):
        return []
    return [value for value in values if not isinstance(value, Real) or (whole and value % 1 != 0)]
