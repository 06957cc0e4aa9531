"""Table 3: accuracy by position and layer of the inserted block."""

from typing import Literal

import pandas as pd
from pandas import DataFrame

from rectify.analysis import charts, drawing, style
from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.charts import Shown, Spec
from rectify.analysis.checks import only, with_layer, with_one_layer
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import titles, values
from rectify.analysis.findings import Finding, count_gains
from rectify.analysis.items import with_comparisons
from rectify.analysis.layout import name_of
from rectify.analysis.metrics import ACCURACY
from rectify.analysis.published import LANGUAGE, Label, labels, match_names, printed_for
from rectify.analysis.statistics import format_spread
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

TITLE = "Table 3: position and layer"
SHOWS = ("table", "figure")
VALUES = Table(
    "table3_heatmap",
    "Accuracy by position and layer of the inserted block.",
    ("layer", "position"),
    (
        Column("layer", "int64", "-", "layer of the language model, from 0"),
        Column("position", "str", "-", "early, middle, end, or blocks before it"),
        Column("mean", "float64", "%", "acc@1, mean over seeds"),
        Column("std", "float64", "%", "standard deviation, from 2 seeds on", True),
        Column("seeds", "int64", "1", "seeds behind the mean"),
    ),
)


class Settings(TargetSettings):
    """The experiments that are shown: one data set, positions and layers."""

    kind: Literal["table3"] = "table3"
    reads: Several[Name]


check = one_each("data", "variant")


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return accuracy, and its gain, by position (rows) and layer (columns) of the block.

    Above them is the vanilla run, in each column the same one.
    """
    compared = with_comparisons(results.runs, results, [ACCURACY])
    runs = with_one_layer(with_layer(compared, "table3"), "table3")
    only(runs, "variant", "table3")
    model = {"language": LANGUAGE, "vision": "ViT-S", "data": "CIFAR-100"}
    theirs = printed_for("table3", runs, **model)
    layers = labels(f"{layer:.0f}" for layer in values(runs, "layer"))
    vanilla = compared[compared["variant"] == "vanilla"]
    repeated = [vanilla.assign(layer=float(label.name)) for label in layers]
    columns_there = match_names(layers, theirs.columns)
    rows = [RowSpec("Vanilla", {"variant": "vanilla"})]
    rows += [
        RowSpec(name.capitalize(), {"position": position}, Label(name.capitalize()))
        for position, name in titles(runs, "position").items()
    ]
    columns = [
        ColumnSpec(
            label.name,
            ACCURACY.compared,
            {"layer": float(label.name)},
            f"{name_of(ACCURACY)}, layer",
            printed=columns_there[label],
        )
        for label in layers
    ]
    return fill(TableSpec("table3", rows, columns, theirs), pd.concat([*repeated, runs]))


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw accuracy by position (rows) and layer (columns) of the inserted block.

    Raises:
        ValueError: If there are no runs, or several variants or data sets.
    """
    runs = with_one_layer(with_layer(results.runs, "table3"), "table3")
    only(runs, "variant", "table3")
    measured = runs.assign(percent=100 * runs["accuracy"]).astype({"layer": "int64"})
    groups = measured.groupby(["layer", "position"], as_index=False)["percent"]
    shown = groups.mean().rename(columns={"percent": "mean"})
    shown["std"], shown["seeds"] = groups.std()["percent"], groups.count()["percent"]
    positions = titles(runs, "position")
    grid = shown.pivot(index="position", columns="layer", values="mean").loc[list(positions)]
    spread = shown.pivot(index="position", columns="layer", values="std").loc[list(positions)]
    vanilla = results.runs.loc[results.runs["variant"] == "vanilla", "accuracy"]
    baseline = f"; vanilla {100 * vanilla.mean():.2f}" if len(vanilla) else ""
    with style.look():
        drawn, (axes,) = drawing.panels(style.PAGE * 0.75, 2.2)
        image = drawing.heat_map(axes, grid, drawing.shades(grid))
        drawing.write_cells(image, grid, spread)
        axes.set_xticks(range(grid.shape[1]), [f"{layer}" for layer in grid.columns])
        axes.set_yticks(range(grid.shape[0]), [name.capitalize() for name in positions.values()])
        axes.set(xlabel=f"layer of {runs['language_title'].iloc[0]}", ylabel="position")
        axes.set_title(f"{drawing.setting(runs)}{baseline}, {drawing.seeds(runs)}")
        drawn.colorbar(image, ax=axes, pad=0.02, label="acc@1 (%)")
    return Drawn(drawn, shown)


def chart(shown: Shown) -> Spec:
    """Return the heat map for a reader: what the table says of the cell below the pointer."""
    places = {name: text.capitalize() for name, text in titles(shown.runs, "position").items()}
    values = shown.values
    texts = [format_spread(*cell, 2) for cell in zip(values["mean"], values["std"], strict=True)]
    cells = values.assign(place=values["position"].map(places), text=texts)
    names = {"place": "position", "layer": "layer", "text": "acc@1 (%) over seeds"}
    return charts.heat_map(
        cells,
        {"field": "layer", "type": "ordinal", "title": "layer", "axis": {"labelAngle": 0}},
        {"field": "place", "type": "nominal", "title": "position", "sort": [*places.values()]},
        {"field": "mean", "title": "acc@1 (%)"},
        charts.hover({**names, "seeds": "seeds"}),
        step=44,
        text=charts.written("text", "mean", values["mean"]),
    )


def findings(cells: DataFrame, _values: DataFrame | None) -> list[Finding]:
    """Return how many placements gain."""
    claim = "Inserting a frozen layer of a language model helps"
    named = cells.assign(group="", column="layer " + cells["column"])
    return [Finding(claim, count_gains(named, first_columns_only=False))]
