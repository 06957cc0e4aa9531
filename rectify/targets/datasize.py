"""Gain by size of the training set: does what is inserted help where data are few?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pandas import DataFrame

from rectify.analysis import drawing, style
from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some, only
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import titles
from rectify.analysis.findings import Finding, gains_of
from rectify.analysis.items import with_comparisons
from rectify.analysis.metrics import headline
from rectify.analysis.printing import spread
from rectify.analysis.published import GAIN
from rectify.controls import CONTROLS, VARIANTS
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLE = "Gain by size of the training set"
SHOWS = ("table", "figure")
VALUES = Table(
    "datasize",
    "A metric and its gain over vanilla, by the share of the training set.",
    ("control", "fraction", "kind"),
    (
        Column("control", "str", "-", "what is inserted, or vanilla"),
        Column("fraction", "float64", "share, 0..1", "of the training items of each class"),
        Column("kind", "str", "-", "value, or its gain over vanilla"),
        Column("mean", "float64", "% or points, or of the metric", "mean over seeds"),
        Column("std", "float64", "as the mean", "standard deviation, from 2 seeds on", True),
        Column("low", "float64", "as the mean", "95 % interval of a gain, from 3 seeds on", True),
        Column("high", "float64", "as the mean", "its other end", True),
        Column("seeds", "int64", "1", "seeds behind the mean"),
    ),
)


class Settings(TargetSettings):
    """The experiments that are shown: one ViT and variant, on several shares of one data set."""

    kind: Literal["datasize"] = "datasize"
    reads: Several[Name]


check = one_each("vision", "variant")


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return the tasks' first metric, and its gain, by share (columns) and control (rows).

    Raises:
        ValueError: If there are several ViTs or variants, or two runs for one cell.
    """
    metric = headline(results.runs)
    runs = _comparable(with_comparisons(results.runs, results, [metric]))
    rows = [RowSpec(text, {"line": name}) for name, text in _lines(runs).items()]
    columns = [
        ColumnSpec(_percent(fraction), metric.compared, {"fraction": fraction}, metric.label)
        for fraction in sorted(runs["fraction"].unique())
    ]
    return fill(TableSpec("datasize", rows, columns), runs)


def figure(results: Results, settings: Settings) -> Drawn:
    """Draw the metric, and its gain over vanilla, over the share of the training set.

    Raises:
        ValueError: If there are several ViTs or variants, or two runs for one share and control.
    """
    metric = headline(results.runs)
    runs = _comparable(results.runs)
    lines = _lines(runs)
    shown = _values(table(results, settings), sorted(runs["fraction"].unique()))
    with style.look():
        drawn, panels = drawing.panels(style.PAGE, 2.7, 2, sharey=False)
        for axes, one in zip(panels, (metric, metric.gain), strict=True):
            _panel(axes, shown[shown["kind"] == one.kind], lines)
            axes.set_ylabel(f"{metric.label if one is metric else 'gain'} ({one.unit})")
        panels[1].axhline(0, color=style.INK, linewidth=0.7)
        handles = panels[0].get_legend_handles_labels()
        drawn.legend(*handles, loc="outside lower center", ncols=min(len(lines), 4))
        largest = runs[runs["fraction"] == runs["fraction"].max()]
        drawn.suptitle(f"{drawing.common(largest)}; {drawing.seeds(runs)}", fontsize=8.5)
    return Drawn(drawn, shown)


def _comparable(runs: DataFrame) -> DataFrame:
    """Return the runs with the name of their line: vanilla, or a control."""
    treated = runs[runs["variant"] != "vanilla"]
    check_some(treated, "datasize", "runs of variant insert or auxiliary")
    for column in ("vision", "variant"):
        only(treated, column, "datasize")
    return runs.assign(line=runs["control"].where(runs["variant"] != "vanilla", "vanilla"))


def _lines(runs: DataFrame) -> dict[str, str]:
    """Return vanilla and the controls, with what they are called."""
    treated = runs[runs["variant"] != "vanilla"]
    return {"vanilla": VARIANTS["vanilla"].title, **titles(treated, "control")}


def _values(cells: DataFrame, fractions: Sequence[float]) -> DataFrame:
    """Return the values and gains of the table's cells, each with its share."""
    shown = cells[cells["kind"].isin(["value", GAIN])].rename(columns={"row": "control"})
    return shown.assign(fraction=shown["column_index"].map(dict(enumerate(fractions))))[
        VALUES.names
    ]


def _panel(axes: "Axes", shown: DataFrame, lines: Mapping[str, str]) -> None:
    for name, text in lines.items():
        rows = shown[shown["control"] == text].sort_values("fraction")
        colour = (VARIANTS | CONTROLS)[name].colour
        axes.plot(rows["fraction"], rows["mean"], "o-", color=colour, label=text)
        ends = [(rows["mean"] - rows["low"]).fillna(rows["std"]),
                (rows["high"] - rows["mean"]).fillna(rows["std"])]  # fmt: skip
        bars = {"fmt": "none", "color": colour, "linewidth": 0.8, "capsize": 2}
        axes.errorbar(rows["fraction"], rows["mean"], yerr=ends, **bars)
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(sorted(shown["fraction"].unique()))
    axes.xaxis.set_major_formatter(lambda fraction, _: _percent(fraction))
    axes.set_xlabel("share of the training set")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:g} %"


def findings(cells: DataFrame, _values: DataFrame) -> list[Finding]:
    """Return the gain of each control on the smallest share and on the largest."""
    gains = gains_of(cells, first_columns_only=False)
    parts = [
        f"{row}: {spread(of_row.iloc[0])} with {of_row['column'].iloc[0]} of the training set, "
        f"{spread(of_row.iloc[-1])} with {of_row['column'].iloc[-1]}"
        for row, of_row in gains.sort_values("column_index").groupby("row", sort=False)
    ]
    return [Finding("It helps most where data are few", f"{'; '.join(parts)}.")]
