"""Any experiment as a table and a heat map: factors against factors, metrics and their gains."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pandas import DataFrame
from pydantic import model_validator

from rectify.analysis import drawing, style
from rectify.analysis.cells import fill
from rectify.analysis.checks import check_some
from rectify.analysis.coherence import with_gsnr_gains
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.items import with_comparisons
from rectify.analysis.layout import comparable, layout_of, name_of, shown_runs, spec_of
from rectify.analysis.metrics import AT_EQUAL_LOSS, DECIMALS, Metric, headline, metric_of
from rectify.analysis.published import GAIN, GAINS, RELATIVE_GAIN
from rectify.results.tables import Column, Table
from rectify.targets.contract import Factors, TargetSettings, View
from rectify.targets.figure5 import Settings as SimilaritySettings
from rectify.tasks import metrics_of
from rectify.typed import Name, Several, check_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Runs of an experiment"
SHOWS = ("table", "figure")
VALUES = Table(
    "grid",
    "A metric and its gain over vanilla, by the factors of an experiment.",
    ("row_index", "column_index", "kind"),
    (
        Column("row_index", "int64", "-", "place of the row, from the top"),
        Column("column_index", "int64", "-", "place of the column, from the left"),
        Column("row", "str", "-", "values of the factors of the row"),
        Column("column", "str", "-", "values of the factors of the column"),
        Column("kind", "str", "-", "value, or its gain over vanilla"),
        Column("unit", "str", "-", "unit of mean and std, times the scale"),
        Column("scale", "float64", "unit", "power of ten that the numbers are divided by"),
        Column("mean", "float64", "scale x unit", "mean over seeds", True),
        Column("std", "float64", "scale x unit", "standard deviation, from 2 seeds on", True),
        Column("seeds", "int64", "1", "seeds behind the mean"),
    ),
)
MEASURED = (
    *("corruption_error", "test_loss", "main_loss", "train_loss", "gain"),
    *("gsnr", AT_EQUAL_LOSS),
)
MOST_COLUMNS = 10  # of heat maps side by side
MOST_LETTERS = 64  # of column labels side by side, above which they are turned
TURNED = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}

Factor = Literal["data", "vision", "language", "variant", "control", "lambda", "position", "layer"]


class Settings(TargetSettings):
    """What is shown, in which rows and columns.

    Without names they are the factors that vary; the metric is the first of the runs' task. A table
    with ``gsnr``, whose gains are at equal epoch, shows its gain at equal training loss as well.
    """

    kind: Literal["grid"] = "grid"
    reads: Several[Name]
    rows: Several[Factor] | None = None
    columns: Several[Factor] | None = None
    metric: Several[str] | None = None
    similarity: bool = False

    @model_validator(mode="after")
    def _names_a_factor_once(self) -> "Settings":
        both = set(self.rows or ()) & set(self.columns or ())
        if both:
            raise ValueError(f"a factor must be in rows or in columns, {min(both)} is in both")
        return self


class Shown(NamedTuple):
    """The cells of some metrics, the runs behind them, and the first of the metrics."""

    cells: DataFrame
    runs: DataFrame
    metric: Metric


def derived(settings: Settings) -> dict[str, TargetSettings]:
    """Return the figure of gains by similarity, where it is asked for."""
    return {"similarity": SimilaritySettings(reads=settings.reads)} if settings.similarity else {}


def check(settings: Settings, config: View, where: str) -> None:
    """Check that rows and columns name what the experiments vary, and metrics what tasks have.

    Raises:
        ValueError: One line that begins with ``where``.
    """
    experiments = [config.experiments[name] for name in settings.reads]
    named = {*(settings.rows or ()), *(settings.columns or ())}
    for name in sorted(named):
        if not any(_varied(experiment)[name] for experiment in experiments):
            raise ValueError(
                f"{where}: rows and columns must be factors that the experiments have, got {name}. "
                "Take it out."
            )
    varied = {name for one in experiments for name, values in _varied(one).items() if values > 1}
    if settings.rows and settings.columns and not varied <= named:
        raise ValueError(
            f"{where}: every factor that varies must be in rows or columns, got "
            f"{min(varied - named)} in neither. Add it to one of them."
        )
    tasks = {config.data[name].task for one in experiments for name in one.data}
    scores = [metric.name for task in tasks for metric in metrics_of(task)]
    for name in settings.metric or ():
        if not name.startswith(tuple(f"{score}_" for score in scores)):
            check_known(f"{where}.metric", name, [*scores, *MEASURED], "a known metric")


def _varied(experiment: Factors) -> dict[str, int]:
    """Return how many values of each factor the runs of an experiment have, besides vanilla."""
    variants = [variant for variant in experiment.variant if variant != "vanilla"]
    of_layer = {
        name: len(getattr(experiment, name) or ("default",)) if variants else 0
        for name in ("language", "control", "layer", "position")
    }
    return {
        "data": len(experiment.data),
        "vision": len(experiment.vision),
        "variant": len(variants),
        "lambda": len([weight for weight in experiment.weights or () if weight]),
        **of_layer,
    }


def table(results: Results, settings: Settings) -> DataFrame:
    """Return metrics and their gains over vanilla by the factors of rows and columns.

    Raises:
        ValueError: If a factor that varies is in neither, or no run has a metric or factor.
    """
    return _shown(results, settings).cells


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the first metric, and next to it its gain over vanilla, as heat maps.

    Raises:
        ValueError: If a factor that varies is in neither rows nor columns, or no run has it.
    """
    cells, runs, metric = _shown(results, settings, most=1)
    kinds = [kind for kind in ("value", *GAINS) if kind in set(cells["kind"])]
    columns, rows = cells["column_index"].nunique(), cells["row_index"].nunique()
    is_stacked = len(kinds) * columns > MOST_COLUMNS
    height = (0.9 + 0.34 * rows) * (len(kinds) if is_stacked else 1)
    with style.look():
        across = 1 if is_stacked else len(kinds)
        drawn, panels = drawing.panels(style.PAGE, height, len(kinds), columns=across)
        for axes, kind in zip(panels, kinds, strict=True):
            _panel(axes, cells, metric if kind == metric.kind else metric.gain)
            _name_columns(axes, cells, across)
        drawn.suptitle(_title(runs, metric), fontsize=8.5)
    return Drawn(drawn, cells.loc[cells["kind"].isin(kinds), VALUES.names])


def _shown(results: Results, settings: Settings, most: int | None = None) -> Shown:
    check_some(results.runs, "grid", "runs")
    runs = comparable(results.runs)
    treated = runs[runs["variant"] != "vanilla"]
    layout = layout_of(treated if len(treated) else runs, settings.rows, settings.columns)
    first = headline(runs)
    names = list(_both_gains(settings.metric or (first.name,)))[:most]
    metrics = [metric_of(name, runs, results.estimator) for name in names]
    shown = shown_runs(runs, layout)
    spec = spec_of(shown, layout, metrics, results.order)
    valued = [first if m.kind == GAIN else m for m in metrics if m.kind != RELATIVE_GAIN]
    gained = with_comparisons(runs, results, list(dict.fromkeys(valued)))
    if AT_EQUAL_LOSS in names:
        gained = with_gsnr_gains(gained, results.gsnr)
    return Shown(fill(spec, gained.loc[shown.index]), runs, metrics[0])


def _both_gains(names: Sequence[str]) -> Iterator[str]:
    """Give the metrics; GSNR, whose gain is at equal epoch, never without that at equal loss."""
    for name in names:
        yield name
        if name == "gsnr" and AT_EQUAL_LOSS not in names:
            yield AT_EQUAL_LOSS


def _panel(axes: "Axes", cells: DataFrame, metric: Metric) -> None:
    rows = cells.drop_duplicates("row_index").sort_values("row_index")["row"]
    columns = cells["column_index"].nunique()
    grid, spread = (
        cells[cells["kind"] == metric.kind]
        .pivot(index="row_index", columns="column_index", values=name)
        .reindex(index=range(len(rows)), columns=range(columns))
        for name in ("mean", "std")
    )
    is_gain = metric.kind in GAINS
    scale = drawing.shades(grid, around_zero=is_gain)
    image = drawing.heat_map(axes, grid, scale, style.GAIN_HEAT if is_gain else style.HEAT)
    drawing.write_cells(image, grid, spread, DECIMALS.get(metric.unit, 2), signed=is_gain)
    axes.set_yticks(range(len(rows)), rows)
    power = "" if metric.scale == 1 else f", in {metric.scale:.0e}"
    axes.figure.colorbar(image, ax=axes, pad=0.02, label=f"{name_of(metric)}{power}")


def _name_columns(axes: "Axes", cells: DataFrame, side_by_side: int) -> None:
    columns = cells.drop_duplicates("column_index").sort_values("column_index")
    if not columns["group"].iloc[0]:  # columns that no factor names
        axes.set_xticks([])
        return
    letters = columns["column"].str.len().max() * len(columns) * side_by_side
    turn = TURNED if letters > MOST_LETTERS else {}
    axes.set_xticks(range(len(columns)), columns["column"], **turn)


def _title(runs: DataFrame, metric: Metric) -> str:
    """Return what the runs have in common, the vanilla run's metric, and the number of seeds."""
    treated, vanilla = runs[runs["variant"] != "vanilla"], runs[runs["variant"] == "vanilla"]
    common = drawing.common(runs)
    parts = [common] if common else []
    if vanilla["run"].nunique() == 1 and metric.kind == "value" and len(treated):
        mean = vanilla[metric.name].mean() * metric.factor
        parts.append(f"vanilla {mean:.{DECIMALS.get(metric.unit, 2)}f}")
    return "; ".join([*parts, drawing.seeds(runs)])
