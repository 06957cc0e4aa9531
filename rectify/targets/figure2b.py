"""Figure 2 at equal loss: GSNR over the training loss, without and with an inserted block."""

from typing import Literal

from rectify.analysis.charts import Shown, Spec
from rectify.analysis.collect import Results
from rectify.analysis.curves import COLUMNS, gsnr_chart, gsnr_curves
from rectify.analysis.drawing import Drawn
from rectify.results.tables import Table
from rectify.targets import figure2
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

TITLE = "Figure 2b: GSNR at equal training loss"
SHOWS = ("figure",)
VALUES = Table(
    "figure2b",
    "GSNR and training loss by epoch, mean over ViT blocks.",
    ("run", "seed", "epoch", "estimator"),
    COLUMNS,
)


class Settings(TargetSettings):
    """The experiments that are shown: insertions in one ViT, the last layer at the end."""

    kind: Literal["figure2b"] = "figure2b"
    reads: Several[Name]


needs = figure2.needs
check = one_each("data")


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw GSNR over the training loss of a vanilla run and of runs with an inserted block.

    The paper has no such figure. GSNR falls with the loss, so runs are compared at the same one.
    """
    drawn = gsnr_curves(results, "figure2b", "main_loss")
    (axes,) = drawn.figure.axes
    axes.invert_xaxis()
    axes.set_xlabel("training loss (nats)")
    return drawn


def chart(shown: Shown) -> Spec:
    """Return the same for a reader."""
    return gsnr_chart(shown, "main_loss")
