"""The factors of an experiment as a reader sees them: their values in order, and how each reads.

Data sets and models come in the order of the configuration, variants and controls in that of
their registry, numbers by size, and positions from the image towards the head: early, then those
between by the number of blocks before them, then end.
"""

from collections.abc import Mapping, Sequence

from pandas import DataFrame

from rectify.controls import CONTROLS, VARIANTS
from rectify.typed import check_known, layers_of

FACTORS = ("data", "vision", "language", "variant", "control", "lambda", "position", "layer")
FROZEN = "frozen"  # the control of a run with the pretrained layer itself
REGISTRIES = {"variant": VARIANTS, "control": CONTROLS}
ENDS = {"early": 0, "end": 2}  # the positions between them are 1

Value = str | float | int


def values(
    runs: DataFrame, factor: str, order: Mapping[str, Sequence[str]] | None = None
) -> list[Value]:
    """Return the values of a factor that runs have, in the order in which they are shown.

    Args:
        runs: Rows of `Results.runs`.
        factor: One of `FACTORS`.
        order: Names of data sets, ViTs and language models, as the configuration lists them;
            those that it lacks follow as they come.
    """
    present = list(runs[factor].dropna().unique())
    if factor == "lambda":
        return sorted(present)
    if factor == "layer":
        return sorted(present, key=lambda value: layers_of(layer_text(value)))
    if factor == "position":
        places = runs.groupby("position")["insert_at"].min()
        return sorted(present, key=lambda name: (ENDS.get(name, 1), places[name]))
    registry = REGISTRIES.get(factor, (order or {}).get(factor, ()))
    known = [name for name in registry if name in present]
    return [*known, *(name for name in present if name not in registry)]


def title(runs: DataFrame, factor: str, value: Value) -> str:
    """Return how a value of a factor reads in a table or figure."""
    if factor == "lambda":
        return f"λ = {value:g}"
    if factor == "layer":
        text = layer_text(value)
        return f"layer{'s' if '-' in text else ''} {text}"
    if factor == "position":
        return f"{value}" if not f"{value}".isdecimal() else f"after {value}"
    if factor in REGISTRIES:
        check_known(factor, value, REGISTRIES[factor], f"a known {factor}")
        return REGISTRIES[factor][f"{value}"].title
    return f"{runs.loc[runs[factor] == value, f'{factor}_title'].iloc[0]}"


def layer_text(value: float | str) -> str:
    """Return a layer as it is written: its index, or ``30-31`` for some in a row."""
    return value if isinstance(value, str) else f"{value:.0f}"


def titles(
    runs: DataFrame, factor: str, order: Mapping[str, Sequence[str]] | None = None
) -> dict[Value, str]:
    """Return the values of a factor in order, each with how it reads."""
    return {value: title(runs, factor, value) for value in values(runs, factor, order)}


def models(frame: DataFrame, factor: str) -> dict[str, str]:
    """Return name and title of the models of similarities, from the smallest to the largest."""
    known = frame[[factor, f"{factor}_title", f"{factor}_parameters"]].drop_duplicates(factor)
    known = known.sort_values(f"{factor}_parameters", kind="stable")
    return dict(zip(known[factor], known[f"{factor}_title"], strict=True))
