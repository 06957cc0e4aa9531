"""Figure 2: GSNR over epochs, without and with an inserted block."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pandas import DataFrame, Series

from rectify.analysis import drawing, style
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import FROZEN
from rectify.controls import CONTROLS, VARIANTS
from rectify.results.tables import Column, Table
from rectify.targets.contract import Run, TargetSettings, last_layer
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Figure 2: GSNR while training"
SHOWS = ("figure",)
VALUES = Table(
    "figure2",
    "GSNR over epochs, mean over ViT blocks.",
    ("run", "seed", "epoch", "estimator"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("label", "str", "-", "name in the legend"),
        Column("seed", "int64", "-", "training seed"),
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("estimator", "str", "-", "estimator of GSNR"),
        Column("gsnr", "float64", "-", "mean over ViT blocks of Eq. 3"),
    ),
)
DASHES = ("-", "--", ":", "-.")


class Settings(TargetSettings):
    """The experiments that are shown: insertions in one ViT, the last layer at the end."""

    kind: Literal["figure2"] = "figure2"
    reads: Several[Name]


def needs(_settings: Settings, runs: Sequence[Run]) -> list[Run]:
    """Return the vanilla runs and those with the last layer at the end, or wherever it is."""
    last = last_layer(runs)
    at_the_end = [run for run in last if run.position in (None, "end")]
    return at_the_end if any(run.position == "end" for run in last) else last


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw GSNR over epochs of a vanilla run and of runs with an inserted block.

    The values carry all estimators, of which one is drawn.
    """
    is_treated = results.gsnr["variant"] != "vanilla"
    gsnr = results.gsnr.iloc[is_treated.argsort(kind="stable")]  # the vanilla run first
    check_some(gsnr, "figure2", "runs of one data set")
    only(gsnr, "data", "figure2")
    keys = ["run", "seed", "epoch", "estimator"]
    values = gsnr.groupby(keys, as_index=False)["gsnr"].mean()
    runs = gsnr.drop_duplicates("run").set_index("run")
    labels = {run: _label(settings) for run, settings in runs.iterrows()}
    values.insert(1, "label", values["run"].map(labels))
    with style.look():
        drawn, (axes,) = drawing.panels(style.COLUMN, 2.6)
        curves: dict[str, int] = defaultdict(int)
        for run, settings in runs.iterrows():
            colour = _colour(settings)
            dashes = DASHES[curves[colour] % len(DASHES)]
            curves[colour] += 1
            rows = values[(values["run"] == run) & (values["estimator"] == results.estimator)]
            _curve(axes, rows, labels[run], colour, dashes)
        drawing.whole_numbers(axes, "x")
        axes.set(xlabel="epoch", ylabel=f"GSNR ({results.estimator})")
        axes.set_title(f"{gsnr['data_title'].iloc[0]}, {drawing.seeds(gsnr)}")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return Drawn(drawn, values)


def _label(run: Series) -> str:
    if run["variant"] == "vanilla":
        return str(run["vision_title"])
    layer = f"{run['language_title']} layer {int(run['layer'])}"
    control = "" if run["control"] == FROZEN else f", {CONTROLS[run['control']].title}"
    return f"{run['vision_title']} + {layer}, {run['position']}{control}"


def _colour(run: Series) -> str:
    if run["control"] in (None, FROZEN):
        return VARIANTS[run["variant"]].colour
    return CONTROLS[run["control"]].colour


def _curve(axes: "Axes", rows: DataFrame, label: str, colour: str, dashes: str) -> None:
    by_seed = rows.pivot(index="epoch", columns="seed", values="gsnr")
    if by_seed.shape[1] > 1:
        axes.plot(by_seed.index, by_seed, color=colour, linewidth=0.6, alpha=0.5, linestyle=dashes)
    axes.plot(by_seed.index, by_seed.mean(axis=1), color=colour, label=label, linestyle=dashes)
