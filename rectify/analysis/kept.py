"""What models say of each test item: columns of ``predictions.parquet`` that are no scores."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from pandas import DataFrame

from rectify.data.rows import schema


def read_kept(path: Path, names: Sequence[str]) -> DataFrame:
    """Return some columns of ``predictions.parquet``.

    Raises:
        ValueError: If one is missing, or the file is damaged.
    """
    there = schema(path).names
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"{path}: must have {missing[0]}, got none. Evaluate the run again.")
    return pd.read_parquet(path, columns=list(names))
