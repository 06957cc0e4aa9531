"""Result tables: declared once, written with a description, checked when read.

Every ``.csv`` is tidy, sorted by its key and printed with nine significant digits; the
``.csv.json`` beside it says what it means, its columns with units, and where it came from.
A file appears whole or not at all: it is written under a temporary name in the same
folder, flushed to disk and renamed.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame, Series
from pandas.api.types import is_integer_dtype, is_numeric_dtype

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
        checked.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


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
            "Delete the file and make it again."
        ) from None
    return _checked(table, frame, f"{path}")


def note_path(path: Path) -> Path:
    """Path of the description beside a table."""
    return Path(f"{path}.json")


def read_note(path: Path) -> dict[str, Any]:
    """Return the description that stands beside the table ``path``."""
    return read_json(note_path(path))


def read_json(path: Path) -> Any:
    """Return the value of a JSON file.

    Raises:
        ValueError: If there is no such file or it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: must exist, got no file. Make it first.") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or too deep
        raise ValueError(f"{path}: must be JSON, got {error}. Make it again.") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; rename it to ``path`` if the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(folder: Path) -> None:
    """Flush a folder's names to disk, so that a renamed file survives a power failure."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


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


SHARE = "share, 0..1"

HISTORY = Table(
    "history",
    "One training run, epoch by epoch.",
    ("epoch",),
    (
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("train_loss", "float64", "nats", "total loss, Eq. 10, mean over the epoch"),
        Column("main_loss", "float64", "nats", "loss of the plain path"),
        Column("auxiliary_loss", "float64", "nats", "loss of the path through the block", True),
        Column("lambda", "float64", SHARE, "weight of the auxiliary loss, Eq. 9"),
        Column("lr", "float64", "1/step", "learning rate at the end of the epoch"),
        Column("accuracy_top1", "float64", SHARE, "test accuracy after the epoch"),
        Column("accuracy_topk", "float64", SHARE, "test accuracy among the k best classes"),
        Column("train_seconds", "float64", "s", "time of the training steps of the epoch"),
        Column("images_per_second", "float64", "1/s", "training images per second"),
    ),
)

GSNR = Table(
    "gsnr",
    "Gradient signal-to-noise ratio of each ViT block, mean over the measured batches (Eq. 3).",
    ("epoch", "block", "estimator"),
    (
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("block", "int64", "-", "ViT block, counted from 0"),
        Column("estimator", "str", "-", "plain, debiased, xi or unnormalised"),
        Column("gsnr", "float64", "-", "mean over parameters and measured batches"),
        Column("parameters", "int64", "1", "parameters of the block that were measured"),
        Column("dropped", "int64", "1", "most parameters without variance in any batch"),
    ),
)

EVALUATION = Table(
    "evaluation",
    "Accuracy of a trained model on the test set and its shifted versions.",
    ("shift", "condition", "severity"),
    (
        Column("shift", "str", "-", "none, c, a, sk or r: as in ImageNet-C, -A, -Sketch, -R"),
        Column("condition", "str", "-", "corruption, or - for none"),
        Column("severity", "int64", "1..5", "severity of the corruption, 0 for none"),
        Column("items", "int64", "1", "test items"),
        Column("k", "int64", "1", "k of accuracy_topk"),
        Column("accuracy_top1", "float64", SHARE, "items whose best class is right"),
        Column("accuracy_topk", "float64", SHARE, "items whose class is among the k best"),
    ),
)

SIMILARITY = Table(
    "similarity",
    "Mutual-KNN between the layers of a language model and the blocks of a ViT (Eq. 4).",
    ("language_layer", "vision_block"),
    (
        Column("language_layer", "int64", "-", "decoder block, counted from 0"),
        Column("vision_block", "int64", "-", "ViT block, counted from 0"),
        Column("mutual_knn", "float64", SHARE, "mean share of common neighbours"),
        Column(
            "mutual_knn_calibrated", "float64", "share, ..1", "0 = permuted items, 1 = identical"
        ),
    ),
)

MANIFEST = Table(
    "manifest",
    "Items of a data set in a fixed order, with their split.",
    ("item",),
    (
        Column("item", "int64", "-", "place in the data set"),
        Column("split", "str", "-", "train, test, or a shifted test set"),
        Column("label", "int64", "-", "class index, -1 where there is none"),
        Column("name", "str", "-", "class name or caption"),
        Column("source", "str", "-", "file, or how the item was drawn"),
    ),
)

PRETRAINING = Table(
    "pretraining",
    "Pretraining curve of a small language model.",
    ("step",),
    (
        Column("step", "int64", "-", "optimizer steps done"),
        Column("train_loss", "float64", "nats per character", "mean since the row before"),
        Column("validation_loss", "float64", "nats per character", "held-out names", True),
    ),
)

FLOP = "FLOP per image"

COST = Table(
    "cost",
    "What a ViT costs with a frozen block: counts, speed and peak memory, random weights.",
    ("variant",),
    (
        Column("variant", "str", "-", "vanilla, insert or auxiliary, the block at the end"),
        Column("parameters", "int64", "1", "all parameters while training, frozen ones included"),
        Column("trained_parameters", "int64", "1", "those that training changes"),
        Column("test_parameters", "int64", "1", "those that are needed at test"),
        Column("flops", "int64", FLOP, "at test, in the paper's convention: rectify/cost.py"),
        Column("flops_matmuls_without_attention", "int64", FLOP, "linears and convolutions"),
        Column("flops_matmuls_with_attention", "int64", FLOP, "all matrix products"),
        Column("training_flops", "int64", FLOP, "all matrix products, backward pass included"),
        Column("training_images_per_second", "float64", "1/s", "forward, backward and AdamW"),
        Column("training_peak_bytes", "float64", "B", "peak memory of a training step", True),
        Column("test_images_per_second", "float64", "1/s", "forward, without gradients"),
        Column("test_peak_bytes", "float64", "B", "peak memory of a forward pass", True),
    ),
)

CELLS = Table(
    "cells",
    "One row per cell of a printed table: ours, the paper's, and the difference.",
    ("row", "column"),
    (
        Column("row", "str", "-", "row label"),
        Column("column", "str", "-", "column label"),
        Column("unit", "str", "-", "unit of mean, std, paper and difference"),
        Column("mean", "float64", "unit", "mean over seeds"),
        Column("std", "float64", "unit", "standard deviation over seeds, from 2 seeds on", True),
        Column("seeds", "int64", "1", "seeds behind the mean, 0 without training"),
        Column("paper", "float64", "unit", "the value that the paper prints", True),
        Column("difference", "float64", "unit", "mean minus paper", True),
        Column("paper_row", "str", "-", "row of the paper's table that it is compared with"),
        Column("paper_column", "str", "-", "column of the paper's table"),
    ),
)
