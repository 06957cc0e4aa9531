"""What must hold of the runs that a table or figure shows."""

from pandas import DataFrame


def check_some(frame: DataFrame, target: str, what: str) -> None:
    """Check that a frame has rows.

    Raises:
        ValueError: If it has none.
    """
    if frame.empty:
        raise ValueError(
            f"{target}: there must be {what}, got none. Let the target read some that has them."
        )


def only(frame: DataFrame, column: str, target: str) -> str:
    """Return the value that all rows have in a column.

    Raises:
        ValueError: If there are several values, or none.
    """
    values = list(frame[column].unique())
    if len(values) != 1:
        raise ValueError(
            f"{target}: all runs must have the same {column}, got "
            f"{', '.join(map(str, values)) or 'none'}. Leave the others out."
        )
    return str(values[0])


def with_layer(runs: DataFrame, target: str) -> DataFrame:
    """Return the runs with a layer of a language model, which must be on one data set.

    Raises:
        ValueError: If there are none, or runs on several data sets.
    """
    treated = runs[runs["variant"] != "vanilla"]
    check_some(treated, target, "runs of variant insert or auxiliary")
    only(treated, "data", target)
    return treated


def with_one_layer(runs: DataFrame, target: str) -> DataFrame:
    """Return the runs, none of which has several layers in a row.

    Raises:
        ValueError: If one has.
    """
    rows = [layer for layer in runs["layer"] if isinstance(layer, str)]
    if rows:
        raise ValueError(
            f"{target}: each run must have one layer, got layers {rows[0]}. Leave that run out."
        )
    return runs
