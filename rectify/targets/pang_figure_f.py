"""Figure F of Pang et al.: loss on the test set and in training, over epochs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pandas import DataFrame

from rectify.analysis import drawing, style
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.curves import colour_of, curve, label_of
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import FROZEN, titles
from rectify.results.tables import Column, Table
from rectify.targets.contract import Run, TargetSettings, one_each
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Pang, Figure F: loss"
SHOWS = ("figure",)
LOSSES = {"test_loss": "-", "main_loss": "--"}
NAMES = {"test_loss": "test", "main_loss": "training"}
VALUES = Table(
    "pang_figure_f",
    "Loss on the test set and in training, epoch by epoch.",
    ("run", "seed", "epoch"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("seed", "int64", "-", "training seed"),
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("test_loss", "float64", "nats", "cross-entropy on the test set, after the epoch"),
        Column("main_loss", "float64", "nats", "loss in training, mean over the epoch"),
    ),
)


class Settings(TargetSettings):
    """The experiments that are shown: insertions on one data set, in some ViTs."""

    kind: Literal["pang_figure_f"] = "pang_figure_f"
    reads: Several[Name]


check = one_each("data")


def needs(_settings: TargetSettings, runs: Sequence[Run]) -> list[Run]:
    """Return the vanilla runs, and those with the pretrained frozen block."""
    return [run for run in runs if run.variant == "vanilla" or run.control == FROZEN]


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw both losses of every run over epochs, a panel for each ViT.

    Raises:
        ValueError: If there are no runs, or some on another data set.
    """
    history = results.history
    check_some(history, "pang_figure_f", "runs of one data set")
    only(history, "data", "pang_figure_f")
    keys = ["run", "seed", "epoch"]
    losses = history[history["metric"].isin(LOSSES)]
    values = losses.pivot(index=keys, columns="metric", values="value").reset_index()[VALUES.names]
    visions = titles(history, "vision", results.order)
    with style.look():
        width = style.PAGE if len(visions) > 1 else style.COLUMN
        drawn, panels = drawing.panels(width, 2.9, len(visions))
        for axes, (vision, title) in zip(panels, visions.items(), strict=True):
            _panel(axes, history[history["vision"] == vision], values)
            axes.set(xlabel="epoch", title=title)
        panels[0].set_ylabel("loss (nats)")
        drawn.legend(*_legend(panels), loc="outside lower center", ncols=2)
        drawn.suptitle(f"{history['data_title'].iloc[0]}, {drawing.seeds(history)}", fontsize=8.5)
    return Drawn(drawn, values)


def _panel(axes: "Axes", history: DataFrame, values: DataFrame) -> None:
    runs = history.drop_duplicates("run").set_index("run")
    for run, settings in runs.iloc[
        (runs["variant"] != "vanilla").argsort(kind="stable")
    ].iterrows():
        what = label_of(settings).removeprefix(f"{settings['vision_title']} + ")
        what = "vanilla" if settings["variant"] == "vanilla" else what
        for loss, dashes in LOSSES.items():
            look = {"color": colour_of(settings), "linestyle": dashes}
            rows = values[values["run"] == run]
            curve(axes, rows, ("epoch", loss), look, f"{what}: {NAMES[loss]}")
    drawing.whole_numbers(axes, "x")


def _legend(panels: Sequence["Axes"]) -> tuple[list, list[str]]:
    """Return each label of the panels once, with its line."""
    named = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    return list(named.values()), list(named)
