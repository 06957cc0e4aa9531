"""Rows of tables on disk: Arrow files, as ``datasets`` writes them, and Parquet files.

An image in a row is named ``<file>#<column>#<row>``, rows being counted from 0. Arrow files are
mapped into memory; of a Parquet file a group of rows is read at a time, and the last few are kept.
"""

import functools
import re
import threading
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Schema, Table
    from pyarrow.parquet import ParquetFile

NAME = re.compile(r"(.+\.(?:arrow|parquet))#(.+)#(\d+)", re.DOTALL)
KEPT = 4  # groups of rows
OPEN = 256  # files
_lock = threading.Lock()

Place = tuple[Path, str, int]
"""File, column and row."""


def name(file: str, column: str, row: int) -> str:
    """Return the name of an image in a row of a file."""
    return f"{file}#{column}#{row}"


def place(path: Path) -> Place | None:
    """Return where the row is that a path names; None for the path of a plain file."""
    found = NAME.fullmatch(str(path))
    return None if found is None else (Path(found[1]), found[2], int(found[3]))


def image(path: Path, column: str, row: int) -> bytes:
    """Return the encoded image in a row.

    Raises:
        OSError: If the file is missing.
        ValueError: If it is damaged, has no such row, or the row has no image in itself.
    """
    try:
        with _lock:
            values, first = _around(path, column, row)
    except KeyError:
        raise ValueError(f"no column {column}") from None
    if row - first >= len(values):
        raise ValueError(f"{len(values)} rows")
    value = values[row - first].as_py()
    stored = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(stored, bytes):
        raise ValueError("no image in the row")
    return stored


def _around(path: Path, column: str, row: int) -> tuple["ChunkedArray", int]:
    """Return values of a column with those of a row among them, and the row of the first."""
    if path.suffix == ".arrow":
        return _mapped(path).column(column), 0
    ends = [0, *_group_ends(path)]
    group = bisect_right(ends, row) - 1
    if group == len(ends) - 1:
        raise ValueError(f"{ends[-1]} rows")
    return _group(path, column, group), ends[group]


def schema(path: Path) -> "Schema":
    """Return the columns of a file.

    Raises:
        ValueError: If it is missing or no table.
    """
    try:
        return _mapped(path).schema if path.suffix == ".arrow" else _parquet(path).schema_arrow
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from None


def column(path: Path, name: str) -> list:
    """Return all values of one column.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        if path.suffix == ".arrow":
            return _mapped(path).column(name).to_pylist()
        return _parquet(path).read(columns=[name]).column(name).to_pylist()
    except (OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from None


@functools.lru_cache(OPEN)
def _mapped(path: Path) -> "Table":
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(f"{path}")).read_all()


@functools.lru_cache(OPEN)
def _parquet(path: Path) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, memory_map=True)


def _group_ends(path: Path) -> list[int]:
    """Return how many rows there are up to the end of each group of rows."""
    about = _parquet(path).metadata
    return [*accumulate(about.row_group(n).num_rows for n in range(about.num_row_groups))]


@functools.lru_cache(KEPT)
def _group(path: Path, column: str, group: int) -> "ChunkedArray":
    return _parquet(path).read_row_group(group, columns=[column]).column(column)


def _damaged(path: Path, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(".")
    return f"{path}: must be an intact table, got {reason}. Get the file again."
