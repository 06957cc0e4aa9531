"""Activations against masks after every epoch, next to GSNR (after Pang et al., 2024, Sec. 6)."""

from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pandas import DataFrame, concat

from rectify.analysis import activations, drawing, style
from rectify.analysis.activations import COMMON_FLOORS, FEATURES, FLOORS, PERMUTED
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.curves import curve
from rectify.analysis.drawing import Drawn
from rectify.analysis.findings import Finding
from rectify.analysis.statistics import format_correlation, stratified_correlation
from rectify.filtering.settings import FilteringSection
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, View, check_masks
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Information filtering while training"
SHOWS = ("figure",)
GSNR, OUTPUT, LAST = "gsnr", "iou of the trunk's output", "iou of the last place"
VALUES = Table(
    "filtering_epochs",
    "GSNR of each epoch, and IoU of activations with masks after it.",
    ("run", "seed", "epoch", "quantity"),
    (
        Column("run", "str", "-", "name of the run"),
        Column("seed", "int64", "-", "training seed"),
        Column("epoch", "int64", "-", "epochs done before this one"),
        Column("quantity", "str", "-", f"{GSNR}, {OUTPUT} (F_E), or {LAST} (F_L2, F_S or F_E); "
                                       "and after the last epoch a floor of the latter two"),
        Column("value", "float64", "-", "mean over blocks of Eq. 3, or over images of the IoU"),
    ),
)  # fmt: skip
PLACES = {OUTPUT: FEATURES[:1], LAST: FEATURES}
"""Of each quantity, whose last one a run has counts."""

DASH = {"linestyle": "", "marker": "_", "markersize": 9, "markeredgewidth": 1.6}

files = ("filtering.csv",)


@runtime_checkable
class WatchedView(View, Protocol):
    """The configuration, with when activations are compared."""

    filtering: FilteringSection


def check(settings: TargetSettings, config: WatchedView, where: str) -> None:
    """Check that the sets have masks, and that activations are compared with them while training.

    Raises:
        ValueError: If not.
    """
    check_masks(settings, config, where)
    if not config.filtering.over_epochs:
        raise ValueError(
            f"{where}: activations must be compared while training, got filtering.over_epochs: "
            "false. Set it to true; runs on sets with masks train again."
        )


class Settings(TargetSettings):
    """The experiments that are shown: sets with masks, of one data set and trunk."""

    kind: Literal["filtering_epochs"] = "filtering_epochs"
    reads: Several[Name]
    activation: Literal["magnitude", "frequency"] = "magnitude"


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw GSNR over epochs, and next to it how well two places outline the objects.

    The places are the output of the trunk, and what reaches the head: after the linear down, or
    after a skip; both are one place of a run without an inserted layer. Their floors are those of
    the trained models, means over runs.

    Raises:
        ValueError: If there is no run.
    """
    check_some(results.gsnr, "filtering_epochs", "runs on a set with masks")
    values = _values(results, settings.activation)
    runs = results.gsnr.drop_duplicates("run").set_index("run")
    titles = {
        GSNR: f"GSNR ({results.estimator})",
        OUTPUT: "IoU, output of the trunk",
        LAST: "IoU, what reaches the head",
    }
    with style.look():
        drawn, panels = drawing.panels(style.PAGE, 2.7, len(titles), sharey=False)
        for axes, (quantity, title) in zip(panels, titles.items(), strict=True):
            of_quantity = values[values["quantity"] == quantity]
            for run, of_run in runs.iterrows():
                rows = of_quantity[of_quantity["run"] == run]
                label = activations.run_title(of_run, runs)
                look = {"color": activations.run_colour(of_run)}
                curve(axes, rows, ("epoch", "value"), look, label)
            if quantity in PLACES:
                _floors(axes, values, quantity, runs)
            axes.set_title(title)
            axes.set_xlabel("epoch")
            drawing.whole_numbers(axes, "x")
        handles = panels[-1].get_legend_handles_labels()  # it has floors
        count = f"{drawing.common(results.gsnr)}, {drawing.seeds(results.gsnr)}"
        drawn.legend(*handles, loc="outside lower center", ncols=4, title=count)
    return Drawn(drawn, values)


def _floors(axes: "Axes", values: DataFrame, quantity: str, runs: DataFrame) -> None:
    """Draw the floors of the set as lines, and that of each run's own map as a dash at the end."""
    for column in COMMON_FLOORS:
        name, line = FLOORS[column]
        heights = values.loc[values["quantity"] == _floor(quantity, name), "value"]
        axes.axhline(heights.mean(), linewidth=1.0, label=name, **line)
    own = FLOORS[PERMUTED][0]
    after = values[values["quantity"] == _floor(quantity, own)]
    for run, of_run in runs.iterrows():
        end = after[after["run"] == run]
        look = {"color": activations.run_colour(of_run)}
        axes.plot(end["epoch"].iloc[:1], [end["value"].mean()], **DASH, **look)
    axes.plot([], [], label=own, color=style.INK, **DASH)


def _values(results: Results, activation: str) -> DataFrame:
    """Return GSNR and both IoU of each run, seed and epoch, and their floors after the last."""
    keys = ["run", "seed", "epoch"]
    gsnr = results.gsnr[results.gsnr["estimator"] == results.estimator]
    means = gsnr.groupby(keys, as_index=False, sort=False)["gsnr"].mean()
    parts = [means.rename(columns={"gsnr": "value"}).assign(quantity=GSNR)]
    history = results.history
    metric = history["metric"].str
    outlines = history[metric.startswith("iou/") & metric.endswith(f"/{activation}")]
    outlines = outlines.assign(place=outlines["metric"].str.split("/").str[1])
    for quantity in PLACES:
        chosen = _last(outlines, quantity, keys)
        parts.append(chosen.assign(quantity=quantity)[[*keys, "value", "quantity"]])
    after = means.groupby(["run", "seed"], as_index=False)["epoch"].max()
    floors = results.filtering[results.filtering["activation"] == activation].merge(after)
    for quantity in PLACES:
        chosen = _last(floors, quantity, keys)
        for column, (name, _) in FLOORS.items():
            rows = chosen[[*keys, column]].rename(columns={column: "value"})
            parts.append(rows.assign(quantity=_floor(quantity, name)))
    return concat(parts, ignore_index=True)[VALUES.names]


def _last(rows: DataFrame, quantity: str, keys: list[str]) -> DataFrame:
    """Return the rows of the last place that each run has among those of a quantity."""
    order = rows["place"].map({place: rank for rank, place in enumerate(PLACES[quantity])})
    known = rows.assign(order=order).dropna(subset="order").sort_values("order", kind="stable")
    return known.groupby(keys, as_index=False, sort=False).last()


def _floor(quantity: str, name: str) -> str:
    return f"{quantity}: {name}"


def findings(_cells: DataFrame | None, values: DataFrame) -> list[Finding]:
    """Return whether the IoU of the trunk's output follows GSNR over the epochs of a run."""
    wide = values.pivot(index=["run", "seed", "epoch"], columns="quantity", values="value")
    trainings = wide.groupby(["run", "seed"])
    first, last = (trainings.nth(place).mean() for place in (0, -1))
    related = stratified_correlation(wide[GSNR], wide[OUTPUT], trainings.ngroup())
    text = (
        f"From the first epoch to the last GSNR goes from {first[GSNR]:.4f} to {last[GSNR]:.4f}, "
        f"IoU of the trunk's output from {first[OUTPUT]:.3f} to {last[OUTPUT]:.3f}"
    )
    text += f"; within runs: {format_correlation(related)}."
    return [Finding("Features concentrate on the object as gradients become coherent", text)]
