"""Figure 2: GSNR over epochs, without and with an inserted block."""

from collections.abc import Sequence
from typing import Literal

from rectify.analysis import drawing
from rectify.analysis.charts import Shown, Spec
from rectify.analysis.collect import Results
from rectify.analysis.curves import COLUMNS, gsnr_chart, gsnr_curves
from rectify.analysis.drawing import Drawn
from rectify.results.tables import Table
from rectify.targets.contract import Run, TargetSettings, last_layer, one_each
from rectify.typed import Name, Several

TITLE = "Figure 2: GSNR while training"
SHOWS = ("figure",)
VALUES = Table(
    "figure2",
    "GSNR over epochs, mean over ViT blocks.",
    ("run", "seed", "epoch", "estimator"),
    COLUMNS,
)


class Settings(TargetSettings):
    """The experiments that are shown: insertions in one ViT, the last layer at the end."""

    kind: Literal["figure2"] = "figure2"
    reads: Several[Name]


check = one_each("data")


def needs(_settings: TargetSettings, runs: Sequence[Run]) -> list[Run]:
    """Return the vanilla runs and those with the last layer at the end, or wherever it is."""
    last = last_layer(runs)
    at_the_end = [run for run in last if run.position in (None, "end")]
    return at_the_end if any(run.position == "end" for run in last) else last


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw GSNR over epochs of a vanilla run and of runs with an inserted block.

    The values carry all estimators, of which one is drawn.
    """
    drawn = gsnr_curves(results, "figure2", "epoch")
    (axes,) = drawn.figure.axes
    drawing.whole_numbers(axes, "x")
    axes.set_xlabel("epoch")
    return drawn


def chart(shown: Shown) -> Spec:
    """Return the same for a reader."""
    return gsnr_chart(shown, "epoch")
