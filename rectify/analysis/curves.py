"""Curves of trainings: one for each run, through the means of its seeds."""

from collections import defaultdict
from typing import TYPE_CHECKING

from pandas import DataFrame, Series

from rectify.analysis import drawing, style
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import FROZEN, layer_text
from rectify.controls import CONTROLS, VARIANTS
from rectify.results.tables import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = (
    Column("run", "str", "-", "name of the run"),
    Column("label", "str", "-", "name in the legend"),
    Column("seed", "int64", "-", "training seed"),
    Column("epoch", "int64", "-", "epochs done before this one"),
    Column("estimator", "str", "-", "estimator of GSNR"),
    Column("gsnr", "float64", "-", "mean over ViT blocks of Eq. 3"),
    Column("main_loss", "float64", "nats", "loss of the plain path, mean over the epoch"),
)
DASHES = ("-", "--", ":", "-.")


def gsnr_curves(results: Results, target: str, over: str) -> Drawn:
    """Draw GSNR of a vanilla run and of runs with an inserted block.

    The values, of `COLUMNS`, carry all estimators, of which one is drawn.

    Args:
        results: Runs of one data set.
        target: Name of the figure.
        over: ``epoch``, or ``main_loss``, from the largest to the smallest.

    Raises:
        ValueError: If there are no runs, or some of another data set.
    """
    is_treated = results.gsnr["variant"] != "vanilla"
    gsnr = results.gsnr.iloc[is_treated.argsort(kind="stable")]  # the vanilla run first
    check_some(gsnr, target, "runs of one data set")
    only(gsnr, "data", target)
    keys = ["run", "seed", "epoch", "estimator"]
    values = gsnr.groupby(keys, as_index=False).agg(
        gsnr=("gsnr", "mean"), main_loss=("main_loss", "first")
    )
    runs = gsnr.drop_duplicates("run").set_index("run")
    labels = {run: label_of(settings) for run, settings in runs.iterrows()}
    values.insert(1, "label", values["run"].map(labels))
    with style.look():
        drawn, (axes,) = drawing.panels(style.COLUMN, 2.6)
        curves: dict[str, int] = defaultdict(int)
        for run, settings in runs.iterrows():
            colour = colour_of(settings)
            dashes = DASHES[curves[colour] % len(DASHES)]
            curves[colour] += 1
            rows = values[(values["run"] == run) & (values["estimator"] == results.estimator)]
            curve(axes, rows, (over, "gsnr"), {"color": colour, "linestyle": dashes}, labels[run])
        axes.set_ylabel(f"GSNR ({results.estimator})")
        axes.set_title(f"{gsnr['data_title'].iloc[0]}, {drawing.seeds(gsnr)}")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return Drawn(drawn, values)


def label_of(run: Series) -> str:
    """Return what a run is called in a legend."""
    if run["variant"] == "vanilla":
        return str(run["vision_title"])
    layer = f"{run['language_title']} layer {layer_text(run['layer'])}"
    control = "" if run["control"] == FROZEN else f", {CONTROLS[run['control']].title}"
    variant = "" if run["variant"] == "insert" else f", {VARIANTS[run['variant']].title}"
    return f"{run['vision_title']} + {layer}, {run['position']}{variant}{control}"


def colour_of(run: Series) -> str:
    """Return the colour of a run: that of its control, or of its variant."""
    if run["control"] in (None, FROZEN):
        return VARIANTS[run["variant"]].colour
    return CONTROLS[run["control"]].colour


def curve(
    axes: "Axes", rows: DataFrame, sides: tuple[str, str], look: dict[str, str], label: str
) -> None:
    """Draw a thin line for each seed, and a thick one through the means of each epoch.

    Args:
        axes: Where.
        rows: Seed, epoch and values of one run.
        sides: Columns that go to the right and up; to the right may be ``epoch``.
        look: Colour and dashes.
        label: In the legend.
    """
    over, up = sides
    seeds = list(rows.groupby("seed"))
    for _, of_seed in seeds if len(seeds) > 1 else ():
        axes.plot(of_seed[over], of_seed[up], linewidth=0.6, alpha=0.5, **look)
    means = rows.groupby("epoch")[[over, up] if over != "epoch" else [up]].mean()
    places = means.index if over == "epoch" else means[over]
    axes.plot(places, means[up], label=label, **look)
