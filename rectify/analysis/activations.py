"""What the figures of information filtering share: how places and runs are called and coloured."""

from pandas import DataFrame, Series

from rectify.analysis import factors, style
from rectify.controls import CONTROLS, VARIANTS

FEATURES = ("F_E", "F_L1", "F_A", "F_F", "F_L2", "F_S")
"""Places from the trunk to the linear down: Pang et al. (2024), Sec. 6.1; then after a skip."""
TITLES = {
    "F_E": "$F_E$\ntrunk",
    "F_L1": "$F_{L1}$\nup",
    "F_A": "$F_A$\nattention",
    "F_F": "$F_F$\nMLP",
    "F_L2": "$F_{L2}$\ndown",
    "F_S": "$F_S$\nskip",
}
ATTENTION = "attention"
LAYER = "F_A"
"""Place of the frozen layer's attention; the trunk's is at its last block."""
PERMUTED = "iou_permuted"
FLOORS = {
    "share": ("all tokens", {"linestyle": ":", "color": style.INK}),
    PERMUTED: ("its tokens permuted", {"linestyle": "-", "color": style.INK}),
    "iou_pixels": ("pixels, or points", {"linestyle": "-", "color": "#9a6a1a"}),
}
"""By column: the floor's name and line."""
COMMON_FLOORS = ("share", "iou_pixels")
"""Those of a set; that of permuted tokens is the higher, the denser a map is."""


def run_title(run: Series, runs: DataFrame) -> str:
    """Return what distinguishes a run from the others: its variant or control, its layer."""
    variant = VARIANTS[run["variant"]].title
    words = [CONTROLS[run["control"]].title if _has_control(run) else variant]
    controlled = runs[runs.apply(_has_control, axis=1)]
    if _has_control(run) and controlled["variant"].nunique() > 1:
        words.append(variant)
    for factor in ("language", "layer", "position", "lambda"):
        if run["variant"] != "vanilla" and _varies(run, runs, factor):
            words.append(factors.title(runs, factor, run[factor]))
    return ", ".join(words)


def run_colour(run: Series) -> str:
    """Return the colour of a run: its control's, else its variant's."""
    if _has_control(run):
        return CONTROLS[run["control"]].colour
    return VARIANTS[run["variant"]].colour


def _has_control(run: Series) -> bool:
    return run["variant"] != "vanilla" and run["control"] != factors.FROZEN


def _varies(run: Series, runs: DataFrame, factor: str) -> bool:
    """Whether runs of the same variant and control differ in a factor."""
    same = runs[(runs["variant"] == run["variant"]) & (runs["control"] == run["control"])]
    return same[factor].nunique() > 1
