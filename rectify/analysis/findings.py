"""What tables and figures say of the papers' claims: sentences with numbers, which open the page.

A sentence counts and quotes what is in the files of its table or figure. It names no verdict: with
few seeds there is none, and with many the reader sees what the intervals exclude.
"""

from collections.abc import Iterable
from typing import NamedTuple

from pandas import DataFrame, Series

from rectify.analysis.printing import spread
from rectify.analysis.published import GAIN, HOLM, ITEM_TEST, P
from rectify.analysis.statistics import format_p

LEVEL = 0.05  # of p values that are counted


class Finding(NamedTuple):
    """A claim of the papers, and what was found."""

    claim: str
    found: str


def gains_of(cells: DataFrame, first_columns_only: bool = True) -> DataFrame:
    """Return the cells with a gain over vanilla, of the first column of each group of columns."""
    gains = cells[(cells["kind"] == GAIN) & cells["mean"].notna()]
    if first_columns_only:
        gains = gains[gains["column_index"].isin(cells.groupby("group")["column_index"].min())]
    return gains


def count_gains(cells: DataFrame, first_columns_only: bool = True) -> str:
    """Return how many runs gain, the least and the most, and how many differ beyond noise.

    Args:
        cells: Rows of a `CELLS` table.
        first_columns_only: Whether only the first column of each group is counted.
    """
    gains = gains_of(cells, first_columns_only)
    if gains.empty:
        return "no gain was measured."
    ranges = " and ".join(_range(of_unit) for _, of_unit in gains.groupby("unit", sort=False))
    colon = ":" if len(gains) == 1 else ","
    texts = [f"{(gains['mean'] > 0).sum()} of {len(gains)} gain{colon} {ranges}"]
    if gains["low"].notna().any():
        above, below = (gains["low"] > 0).sum(), (gains["high"] < 0).sum()
        texts.append(f"95 % interval over seeds above zero in {above}, below zero in {below}")
    sure = [_sure(cells, gains, kind) for kind in (ITEM_TEST, HOLM) if kind in set(cells["kind"])]
    if sure:
        corrected = f" ({' and '.join(sure[1])} after Holm)" if len(sure) > 1 else ""
        better, worse = sure[0]
        texts.append(
            f"over the test items {better} better and {worse} worse with p < {LEVEL}{corrected}"
        )
    return f"{'; '.join(texts)}."


def _sure(cells: DataFrame, gains: DataFrame, kind: str) -> tuple[str, str]:
    """Return how many gains lie above and below zero with a p value of this kind below LEVEL."""
    keys = ["row_index", "column_index"]
    tests = cells[cells["kind"] == kind].set_index(keys)["mean"]
    means = gains[gains.join(tests.rename("item_p"), on=keys)["item_p"] < LEVEL]["mean"]
    return f"{(means > 0).sum()}", f"{(means < 0).sum()}"


def list_gains(cells: DataFrame, by: str) -> str:
    """Return the gains in the first column of each group, with their labels.

    Args:
        cells: Rows of a `CELLS` table.
        by: ``row`` or ``column``, whose labels tell the gains apart.
    """
    gains = gains_of(cells, first_columns_only=by == "row")
    named = (f"{cell[by].removeprefix('+')} {spread(cell)}" for _, cell in gains.iterrows())
    unit = gains["unit"].iloc[0] if len(gains) else ""
    return f"{'; '.join(named)} {unit}.".strip() if len(gains) else "no gain was measured."


def count_positive(values: Series) -> str:
    """Return how many of the values that there are lie above zero, as "5 of 6"."""
    known = values.dropna()
    return f"{(known > 0).sum()} of {len(known)}"


def correlations(cells: DataFrame, row: str, columns: Iterable[tuple[str, str]]) -> str:
    """Return the correlations of a row in some columns, as "equal loss: ρ = 0.51, p = 0.012".

    Args:
        cells: Rows of a `CELLS` table with values and their p values.
        row: Its label.
        columns: The head and the label of each.
    """
    texts = []
    for group, column in columns:
        place = cells[
            (cells["row"] == row) & (cells["group"] == group) & (cells["column"] == column)
        ]
        numbers = place.set_index("kind")["mean"]
        if numbers.notna().get("value", False):
            texts.append(f"{group}: ρ = {numbers['value']:.2f}, {format_p(numbers[P])}")
        else:
            texts.append(f"{group}: {place['text'].iloc[0]}")
    return "; ".join(texts)


def _range(gains: DataFrame) -> str:
    """Return the least and the most of gains in one unit, or the only one."""
    means, unit = gains["mean"], gains["unit"].iloc[0]
    least, most = (_quoted(gains.loc[index]) for index in (means.idxmin(), means.idxmax()))
    return f"from {least} to {most} {unit}" if len(gains) > 1 else f"{least} {unit}"


def _quoted(cell: Series) -> str:
    """Return a gain and whose it is."""
    names = [name for name in dict.fromkeys((cell["row"], cell["group"], cell["column"])) if name]
    return f"{cell['mean']:+.2f} ({', '.join(names)})"
