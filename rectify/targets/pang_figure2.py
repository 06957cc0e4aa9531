"""Figure 2 of Pang et al.: accuracy by the layer of the language model that is inserted."""

from itertools import cycle
from typing import Literal

from pandas import DataFrame

from rectify.analysis import drawing, style
from rectify.analysis.checks import check_some, only, with_one_layer
from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.factors import titles
from rectify.analysis.metrics import Metric, headline
from rectify.results.tables import Column, Table
from rectify.targets.contract import TargetSettings, one_each
from rectify.typed import Name, Several

TITLE = "Pang, Figure 2: layers"
SHOWS = ("figure",)
VALUES = Table(
    "pang_figure2",
    "The first metric of the task, by the layer that is inserted at the end.",
    ("language", "layer", "seed"),
    (
        Column("language", "str", "-", "language model"),
        Column("layer", "int64", "-", "layer of the language model, from 0"),
        Column("seed", "int64", "-", "training seed"),
        Column("value", "float64", "of the metric", "in percent, where it is a share"),
        Column("vanilla", "float64", "of the metric", "the same without insertion"),
    ),
)


class Settings(TargetSettings):
    """The experiments that are shown: one data set and ViT, layers of language models."""

    kind: Literal["pang_figure2"] = "pang_figure2"
    reads: Several[Name]


check = one_each("data", "vision", "variant", "position")


def figure(results: Results, _settings: Settings) -> Drawn:
    """Draw the first metric of the task by layer, a line for each language model.

    Raises:
        ValueError: If there are no insertions, some at several places, or of several layers.
    """
    runs = results.runs
    treated = with_one_layer(runs[runs["variant"] != "vanilla"], "pang_figure2")
    check_some(treated, "pang_figure2", "runs of variant insert")
    for factor in ("data", "vision", "variant", "control", "position"):
        only(treated, factor, "pang_figure2")
    metric = headline(runs)
    vanilla = runs[runs["variant"] == "vanilla"].set_index("seed")[metric.name] * metric.factor
    values = DataFrame(
        {
            "language": treated["language"],
            "layer": treated["layer"].astype("int64"),
            "seed": treated["seed"],
            "value": treated[metric.name] * metric.factor,
            "vanilla": treated["seed"].map(vanilla),
        }
    ).sort_values(["language", "layer", "seed"], ignore_index=True)
    with style.look():
        drawn, (axes,) = drawing.panels(style.COLUMN, 2.8)
        axes.axhline(vanilla.mean(), color=style.SOFT, linestyle="--", label="vanilla")
        names = titles(treated, "language", results.order)
        for (colour, marker), (name, label) in zip(
            cycle(style.SERIES), names.items(), strict=False
        ):
            rows = values[values["language"] == name]
            means = rows.groupby("layer")["value"].mean()
            axes.plot(means.index, means, color=colour, marker=marker, label=label)
            if rows["seed"].nunique() > 1:
                axes.plot(rows["layer"], rows["value"], ".", color=colour, markersize=3, alpha=0.6)
        drawing.whole_numbers(axes, "x")
        axes.set(xlabel="layer of the language model", ylabel=_axis(metric))
        axes.set_title(f"{drawing.common(runs)}, {drawing.seeds(runs)}")
        drawn.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return Drawn(drawn, values)


def _axis(metric: Metric) -> str:
    return f"{metric.label} ({metric.unit})"
