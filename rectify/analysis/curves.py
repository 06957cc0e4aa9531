"""Curves of trainings: one for each run, through the means of its seeds."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pandas import DataFrame, Series

from rectify.analysis import charts, drawing, style
from rectify.analysis.charts import Shown, Spec
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import FROZEN, layer_text
from rectify.controls import CONTROLS, VARIANTS
from rectify.results.tables import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
LENGTHS: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [6, 2, 2, 2])  # the same, of a chart
PANEL, LINE = 2.2, 0.16
"""Heights of the panel and of a line of the legend below it, in inches."""
LETTERS = 52
"""That such a line has room for."""
OVER = ("epoch", "main_loss")
AT_EPOCH = "over == 'epoch'"


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
        drawn, (axes,) = drawing.panels(style.COLUMN, PANEL)
        for run, (colour, dashes) in zip(runs.index, looks_of(runs), strict=True):
            rows = values[(values["run"] == run) & (values["estimator"] == results.estimator)]
            look = {"color": colour, "linestyle": DASHES[dashes]}
            curve(axes, rows, (over, "gsnr"), look, labels[run])
        axes.set_ylabel(f"GSNR ({results.estimator})")
        axes.set_title(f"{gsnr['data_title'].iloc[0]}, {drawing.seeds(gsnr)}")
        _add_legend(drawn, axes)
    return Drawn(drawn, values)


def _add_legend(figure: "Figure", axes: "Axes") -> None:
    """Name the curves below the panel, in lines that fit, and make the figure as high."""
    handles, labels = axes.get_legend_handles_labels()
    names = [textwrap.fill(label, LETTERS) for label in labels]
    figure.set_figheight(PANEL + LINE * sum(len(name.splitlines()) for name in names))
    figure.legend(handles, names, loc="outside lower center")


def gsnr_chart(shown: Shown, over: str) -> Spec:
    """Return the curves of `gsnr_curves` for a reader, who chooses the estimator and the abscissa.

    A curve leads to the page of its run.

    Args:
        shown: The values of the figure, and their runs.
        over: What is to the right at first: ``epoch`` or ``main_loss``.
    """
    curves = shown.runs.loc[shown.values["run"].unique()]
    curves = curves.iloc[(curves["variant"] != "vanilla").argsort(kind="stable")]
    estimators = list(shown.values["estimator"].unique())
    hover = {"label": "run", "epoch": "epoch", "gsnr": "GSNR", "main_loss": "training loss (nats)"}
    layers = charts.seeds_and_means(
        keys=("run", "label", "page", "epoch"),
        numbers=("gsnr", "main_loss"),
        encoding=_channels(curves),
        before=[{"filter": "datum.estimator == estimator"}, charts.looked_up(curves, "run")],
        after=[{"calculate": f"{AT_EPOCH} ? datum.epoch : datum.main_loss", "as": "place"}],
        shown=charts.hover({**hover, "count": "seeds"}, {"gsnr": ".4g", "main_loss": ".4f"}),
        further={"href": {"field": "page"}},
    )
    pick = {"name": "pick", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}
    layers[1]["params"] = [pick]
    return charts.chart(
        shown.values.drop(columns="label"),
        layers,
        params=[
            charts.select("estimator", estimators, shown.estimator, "estimator", estimators),
            charts.select(
                "over", OVER, over, "compared at", ("equal epoch", "equal training loss")
            ),
            charts.tick("seeds", "each seed"),
        ],
        title={
            "text": {"expr": f"{AT_EPOCH} ? 'epoch' : 'training loss (nats)'"},
            "orient": "bottom",
            "anchor": "middle",
        },
    )


def _channels(curves: DataFrame) -> Spec:
    """Return the channels of curves: labels as in the figure, with its colours and dashes."""
    colours, dashes = zip(*looks_of(curves), strict=True)
    seen = [charts.SOFT if colour == VARIANTS["vanilla"].colour else colour for colour in colours]
    lengths, labels = [LENGTHS[place] for place in dashes], list(curves["label"])
    return {
        "x": charts.measured(
            "place",
            None,
            scale={"reverse": {"expr": f"!({AT_EPOCH})"}},
            axis={"tickMinStep": {"expr": f"{AT_EPOCH} ? 1 : 0"}},
        ),
        "y": charts.measured("gsnr", "GSNR"),
        "color": {
            "field": "label",
            "title": None,
            "scale": {"domain": labels, "range": seen},
            "legend": {"columns": 1},
        },
        "strokeDash": {
            "field": "label",
            "title": None,
            "scale": {"domain": labels, "range": lengths},
        },
        "opacity": {"condition": {"param": "pick", "value": 1}, "value": 0.15},
    }


def looks_of(runs: DataFrame) -> Iterator[tuple[str, int]]:
    """Yield colour and dashes, a place in `DASHES`, of each run: dashes tell colours apart."""
    seen: dict[str, int] = defaultdict(int)
    for _, run in runs.iterrows():
        colour = colour_of(run)
        yield colour, seen[colour] % len(DASHES)
        seen[colour] += 1


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
