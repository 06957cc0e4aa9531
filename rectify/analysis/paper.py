"""Every number that the paper prints, and which of its cells one of ours stands beside.

Tables 1 to 6 of *Frozen Language Models are Gradient Coherence Rectifiers in Vision
Transformers* (AAAI 2025), digit by digit, and its cost figures. Accuracies are in percent,
GSNR in the power of ten that the column head gives, similarities are shares. Where the
paper prints a bare ``+AUX`` under a model, the row here carries the model's name as well.
Table 2 is quoted by the paper from Pang et al. (2023).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Cell(NamedTuple):
    """One printed number; ``unit`` is ``%``, ``points``, ``share`` or a power of ten."""

    table: str
    row: str
    column: str
    unit: str
    value: float


class Cost(NamedTuple):
    """One printed cost of ViT-S, without and with the block of LLaMA-7B."""

    quantity: str
    unit: str
    vision: float
    rectified: float


COSTS = (
    Cost("parameters", "1e6", 22.05, 227.58),
    Cost("flops", "1e9", 8.5, 90.11),
    Cost("speed", "samples/s", 75.0, 70.0),
)

COSTED = {("vanilla", 22_050_664): "vision", ("insert", 227_579_752): "rectified"}

LANGUAGE = "LLaMA-7B"  # whose layers are the columns of Table 3
SAME_SIZE = 1.4  # a factor; of two printed sizes one at most is as near as that
GAIN = ", gain"  # ends the name of a row that holds the gains over vanilla of the row before

_SHIFTS = ("ImageNet", "ImageNet-C", "ImageNet-A", "ImageNet-SK", "ImageNet-R")

# table -> (columns as (label, unit), rows as (label, numbers)); T2's gains have their own unit
_PRINTED = {
    "table1": (
        [(f"LLM@{size}", "share") for size in ("560M", "1.1B", "3B", "7B")],
        [
            ("vit@5.7M", "0.0864 0.0926 0.1185 0.1231"),
            ("vit@22M", "0.0924 0.0982 0.1268 0.1315"),
            ("vit@86M", "0.0955 0.1004 0.1286 0.1330"),
        ],
    ),
    "table2": (
        [(f"+Opt-{size}", "%") for size in ("350M", "1.3B", "2.7B", "6.7B")],
        [
            ("ViT-S", "71.56 75.62 75.74 76.29"),
            (f"ViT-S{GAIN}", "-3.69 +0.37 +0.54 +1.04"),
        ],
    ),
    "table3": (
        [(layer, "%") for layer in ("0", "7", "15", "23", "31")],
        [
            ("Early", "68.12 67.54 67.78 67.40 68.73"),
            ("Middle", "69.01 70.22 73.18 73.50 73.76"),
            ("End", "70.65 71.39 71.95 74.28 74.14"),
        ],
    ),
    "table4": (
        [(f"ImageNet-1K: {name}", "%") for name in _SHIFTS]
        + [("ImageNet-1K: GSNR", "1e-5")]
        + [(f"Something-Something-v2: acc@{k}", "%") for k in (1, 5)]
        + [("Something-Something-v2: GSNR", "1e-3")],
        [
            ("ViT-S", "80.1 57.2 20.5 28.9 42.1 6.36 64.71 89.15 1.79"),
            ("ViT-S +AUX", "80.3 57.6 20.0 30.1 42.3 7.10 64.58 89.54 1.80"),
            ("ViT-B", "80.6 60.5 23.4 31.9 43.5 8.12 64.97 89.50 0.94"),
            ("ViT-B +AUX", "80.9 61.1 24.2 32.3 44.3 9.34 65.85 90.08 1.02"),
        ],
    ),
    "table5": (
        [
            (f"{name}: {label}", unit)
            for name in ("CIFAR-100", "Caltech 256")
            for label, unit in (("acc@1", "%"), ("acc@5", "%"), ("GSNR", "1e-5"))
        ],
        [
            ("ViT-T", "70.21 90.97 1.76 39.65 63.77 1.66"),
            ("ViT-T +AUX", "71.27 91.06 2.11 40.26 64.12 2.37"),
            ("ViT-S", "71.62 91.35 1.28 47.16 68.10 1.20"),
            ("ViT-S +AUX", "73.37 91.43 1.36 48.15 69.25 1.97"),
        ],
    ),
    "table6": (
        [
            (f"{name}: acc@{k}", "%")
            for name, last in (("CIFAR-100", 5), ("Caltech 256", 5), ("BAR", 3))
            for k in (1, last)
        ],
        [
            ("0", "71.62 91.35 47.16 68.10 33.49 58.56"),
            ("0.15", "72.88 91.35 47.26 68.67 34.70 69.57"),
            ("0.25", "72.92 91.37 47.12 68.69 34.55 68.04"),
            ("0.35", "73.37 91.43 48.15 69.25 34.86 68.20"),
            ("0.45", "72.75 91.47 47.61 69.02 34.63 67.58"),
        ],
    ),
}

TABLES = tuple(_PRINTED)


def _cells(table: str) -> list[Cell]:
    columns, rows = _PRINTED[table]
    return [
        Cell(table, row, label, "points" if row.endswith(GAIN) else unit, float(number))
        for row, numbers in rows
        for (label, unit), number in zip(columns, numbers.split(), strict=True)
    ]


def _key(label: str) -> str:
    """Return what spellings of a name share; ImageNet-1K is ImageNet as well."""
    return label.lower().removeprefix("+").replace(" ", "-").replace("-1k", "")


CELLS = tuple(cell for table in TABLES for cell in _cells(table))

_PRINTED_NAMES = {_key(name) for c in CELLS for name in (c.row, c.column.partition(": ")[0])}
_NAMES = {*_PRINTED_NAMES, _key(LANGUAGE)}


def printed_rows(table: str) -> list[str]:
    """Return the row labels of a table, from the top."""
    return [label for label, _ in _PRINTED[table][1]]


def printed_columns(table: str) -> list[str]:
    """Return the column labels of a table, from the left."""
    return [label for label, _ in _PRINTED[table][0]]


def printed_cell(table: str, row: str | None, column: str | None) -> Cell | None:
    """Return the cell of a table, or nothing where the paper has no such row or column."""
    found = [c for c in CELLS if (c.table, c.row, c.column) == (table, row, column)]
    return found[0] if found else None


def cost_cells(variant: str, parameters: int) -> dict[str, Cell]:
    """Return what the paper prints of its own two models, by column of a ``COST`` table."""
    side = COSTED.get((variant, parameters))
    if side is None:
        return {}
    columns = {"parameters": "parameters", "flops": "flops", "speed": "test_images_per_second"}
    return {
        columns[cost.quantity]: Cell(
            "cost",
            f"ViT-S, {variant}",
            cost.quantity,
            "1e0" if cost.quantity == "speed" else cost.unit,
            getattr(cost, side),
        )
        for cost in COSTS
    }


def match_names(ours: Sequence[str], printed: Sequence[str]) -> dict[str, str | None]:
    """Return for each label of ours the printed one of the same name, whatever the order.

    The others have none. Only where no table of the paper has any of our models or data sets
    are they stand-ins for the paper's, and matched by rank.
    """
    if all(_key(label.partition(": ")[0]) not in _NAMES for label in ours):
        return match(ours, printed)
    names = {_key(label): label for label in printed}
    return {label: names.get(_key(label)) for label in ours}


def match_sizes(ours: Mapping[str, float], printed: Sequence[str]) -> dict[str, str | None]:
    """Return for each model of ours the label ``name@size`` of the paper's model of its size.

    The nearest of ours has the label, and no other. Where none of ours is within a factor of
    ``SAME_SIZE`` of any, all are matched by rank.

    Args:
        ours: Number of parameters by name, from the smallest to the largest.
        printed: Labels of the paper, likewise.
    """
    sized: dict[str, str | None] = dict.fromkeys(ours)
    for label in printed:
        distances = {name: abs(math.log(ours[name] / _size(label))) for name in ours}
        nearest = min(distances, key=distances.__getitem__)
        if distances[nearest] < math.log(SAME_SIZE):
            sized[nearest] = label
    return sized if any(sized.values()) else match(list(ours), printed)


def _size(label: str) -> float:
    size = label.partition("@")[2]
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


def match(ours: Sequence[str], printed: Sequence[str]) -> dict[str, str | None]:
    """Return for each label of ours the printed one of the same role, where names may mislead.

    Both sequences run from the smallest to the largest model, or from the first to the last
    layer. Where the paper prints all of our labels they are the same thing, and matched by
    name; otherwise the i-th of ours stands beside the i-th of the paper.
    """
    names = {label.lower(): label for label in printed}
    if all(label.lower() in names for label in ours):
        return {label: names[label.lower()] for label in ours}
    padded = [*printed, *[None] * len(ours)]
    return dict(zip(ours, padded, strict=False))
