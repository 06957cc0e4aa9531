"""Figure 3: gain in GSNR of each ViT block, by position of the inserted block."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pandas import DataFrame, concat

from rectify.analysis import drawing, factors, style
from rectify.analysis.checks import check_some, only
from rectify.analysis.coherence import gains
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.controls import VARIANTS
from rectify.results.tables import Column, Table
from rectify.targets.contract import Run, TargetSettings, last_layer, one_each
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

TITLE = "Figure 3: gain in GSNR by block"
SHOWS = ("figure",)
VALUES = Table(
    "figure3",
    "GSNR of each ViT block with the inserted block, less that of the vanilla ViT.",
    ("run", "seed", "block", "estimator"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("position", "str", "-", "early, middle, end, or blocks before it"),
        Column("insert_at", "int64", "-", "ViT blocks before the inserted one"),
        Column("seed", "int64", "-", "training seed"),
        Column("block", "int64", "-", "ViT block, counted from 0"),
        Column("estimator", "str", "-", "estimator of GSNR"),
        Column("gsnr", "float64", "-", "mean over epochs, Eq. 7"),
        Column("vanilla", "float64", "-", "the same without inserted block"),
        Column("difference", "float64", "-", "gsnr less vanilla, same seed"),
        Column("at_equal_loss", "float64", "-", "the same at equal training loss", True),
        Column("epochs", "int64", "1", "epochs whose loss vanilla has as well"),
    ),
)
AT_EPOCH = {"color": VARIANTS["insert"].colour, "alpha": 0.75}
AT_LOSS = {"facecolor": "none", "edgecolor": VARIANTS["insert"].colour, "hatch": "/////"}
DOT = {"marker": "o", "markersize": 2.6, "linestyle": "", "color": style.INK}
INSERTION = {"linestyle": "--", "linewidth": 1.2, "color": "#d55e00"}


class Settings(TargetSettings):
    """The experiments that are shown: insertions in one ViT; the last layer is drawn."""

    kind: Literal["figure3"] = "figure3"
    reads: Several[Name]


check = one_each("data", "vision", "variant")


def needs(_settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """Return the vanilla runs, and those with the last layer."""
    return last_layer(runs)


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw the gain in GSNR of each ViT block, one panel per position of the inserted block.

    Next to the gain at equal epoch, as the paper has it, is that at equal training loss.

    The values carry all estimators, of which one is drawn.

    Raises:
        ValueError: If there is not one vanilla run, and one run for each position.
    """
    gsnr = results.gsnr
    treated = gsnr[gsnr["variant"] != "vanilla"]
    values = _differences(treated, gsnr[gsnr["variant"] == "vanilla"])
    shown = values[values["estimator"] == results.estimator]
    positions = factors.values(treated, "position")
    with style.look():
        drawn, panels = drawing.panels(style.PAGE, 2.5, len(positions))
        for axes, position in zip(panels, positions, strict=True):
            _panel(axes, shown[shown["position"] == position], f"{position}")
        panels[0].set_ylabel(f"GSNR ({results.estimator}) less vanilla")
        drawn.legend(handles=_legend(shown), loc="outside lower center", ncols=4)
        drawn.suptitle(drawing.setting(treated), fontsize=8.5)
    return Drawn(drawn, values)


def _differences(treated: DataFrame, vanilla: DataFrame) -> DataFrame:
    check_some(treated, "figure3", "runs of variant insert")
    check_some(vanilla, "figure3", "a vanilla run")
    only(vanilla, "run", "figure3")
    only(treated, "variant", "figure3")
    for _, rows in treated.groupby("position"):
        only(rows, "run", "figure3")
    keys = ["seed", "block", "estimator"]
    settings = ["run", "position", "insert_at"]
    values = treated.groupby([*settings, *keys], as_index=False)["gsnr"].mean()  # Eq. 7
    baseline = vanilla.groupby(keys)["gsnr"].mean().rename("vanilla")
    values = values.join(baseline, on=keys).astype({"insert_at": "int64"})
    values["difference"] = values["gsnr"] - values["vanilla"]
    at_loss = gains(concat([treated, vanilla]), ["block"]).set_index(["run", *keys])
    at_loss = at_loss[["equal_loss", "epochs"]].rename(columns={"equal_loss": "at_equal_loss"})
    return values.join(at_loss, on=["run", *keys])


def _panel(axes: "Axes", rows: DataFrame, position: str) -> None:
    means = rows.groupby("block")[["difference", "at_equal_loss"]].mean()
    for name, shift, look in (("difference", -0.2, AT_EPOCH), ("at_equal_loss", 0.2, AT_LOSS)):
        axes.bar(means.index + shift, means[name], width=0.38, **look)
        if rows["seed"].nunique() > 1:
            axes.plot(rows["block"] + shift, rows[name], **DOT)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    insert_at = int(rows["insert_at"].iloc[0])
    axes.axvline(insert_at - 0.5, **INSERTION)
    axes.set(xlabel="ViT block", xlim=(-0.9, means.index.max() + 0.9))
    drawing.whole_numbers(axes, "x")
    axes.set_title(f"{position}: after {insert_at} block{'' if insert_at == 1 else 's'}")


def _legend(shown: DataFrame) -> list["Artist"]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    bars = [
        Patch(**AT_EPOCH, label=f"at equal epoch, {drawing.seeds(shown)}"),
        Patch(**AT_LOSS, label="at equal training loss"),
    ]
    dots = [Line2D([], [], **DOT, label="one seed")] * (shown["seed"].nunique() > 1)
    return [*bars, *dots, Line2D([], [], **INSERTION, label="inserted block")]
