"""Cells of small tables, as `rectify.analysis.cells.fill` returns them."""

import math

from pandas import DataFrame

from rectify.results.declared import CELLS


def cells(*rows: tuple) -> DataFrame:
    """Return cells from (row, (group, column), kind, unit, scale, mean, std, seeds, paper)."""
    names = list(dict.fromkeys(row[0] for row in rows))
    columns = list(dict.fromkeys(row[1] for row in rows))
    full = [
        (names.index(row), columns.index(column), row, *column, *kind, mean, std,
         math.nan, math.nan, seeds, "-", paper, mean - paper, "r", "c", "-")
        for row, column, *kind, mean, std, seeds, paper in rows
    ]  # fmt: skip
    return DataFrame(full, columns=CELLS.names)


OPT, BIG = ("", "+OPT"), ("", "+BIG")
GAINS = cells(
    ("ViT-S", OPT, "gain", "points", 1.0, -3.7, 0.5, 2, -3.69),
    ("ViT-S", OPT, "value", "%", 1.0, 71.4, 0.25, 2, 71.56),
    ("ViT-S", BIG, "value", "%", 1.0, 76.0, math.nan, 1, math.nan),
    ("ViT-S", BIG, "gain", "points", 1.0, 1.0, 0.5, 2, math.nan),
)
GROUPS = cells(
    ("ViT_S & 5%", ("Set", "acc@1"), "value", "%", 1.0, 70.0, 1.0, 3, 71.62),
    ("ViT_S & 5%", ("Set", "GSNR"), "value", "1", 1e-2, 2.3, 0.1, 3, 0.00128),
    ("ViT_S & 5%", ("Other #1", "acc@1"), "value", "%", 1.0, 50.0, 1.0, 3, math.nan),
    ("last", ("Other #1", "acc@1"), "value", "%", 1.0, 40.0, 1.0, 3, math.nan),
)
CORRELATIONS = cells(
    ("GSNR", ("equal loss", "gap"), "p", "-", 1.0, 0.0123, math.nan, 2, math.nan),
    ("GSNR", ("equal loss", "gap"), "value", "rho", 1.0, -0.514, math.nan, 2, math.nan),
    ("cosine", ("equal loss", "gap"), "value", "rho", 1.0, 0.9, math.nan, 2, math.nan),
    ("cosine", ("equal loss", "gap"), "p", "-", 1.0, 0.0002, math.nan, 2, math.nan),
)
