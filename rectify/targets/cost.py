"""What a frozen block costs: parameters, FLOPs, speed and memory."""

from typing import Literal

from pandas import DataFrame, Series
from pydantic import PositiveInt

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.checks import check_some
from rectify.analysis.collect import Results
from rectify.analysis.metrics import Metric, power_of_thousand
from rectify.analysis.published import Label, printed
from rectify.controls import VARIANTS
from rectify.results.declared import COST
from rectify.targets.contract import Pair, TargetSettings, check_models
from rectify.typed import Name, Several

TITLE = "Cost of the frozen block"
SHOWS = ("table",)
COSTED = {("vanilla", 22_050_664): "ViT-S, vanilla", ("insert", 227_579_752): "ViT-S, insert"}
"""Variant and number of parameters of the two models whose cost the paper prints."""
QUANTITIES = {
    "parameters": Label("training", "parameters"),
    "trained_parameters": Label("trained", "parameters"),
    "test_parameters": Label("test", "parameters"),
    "flops": Label("paper's count", "FLOPs per image"),
    "flops_matmuls_without_attention": Label("without attention", "FLOPs per image"),
    "flops_matmuls_with_attention": Label("all products", "FLOPs per image"),
    "training_flops": Label("training step", "FLOPs per image"),
    "training_images_per_second": Label("training", "images per second"),
    "test_images_per_second": Label("test", "images per second"),
    "training_peak_bytes": Label("training", "peak bytes"),
    "test_peak_bytes": Label("test", "peak bytes"),
}


class Settings(TargetSettings):
    """The models that are measured, for the items of a data set."""

    kind: Literal["cost"] = "cost"
    data: Name
    visions: Several[Name]
    languages: Several[Name]
    batch_size: PositiveInt = 64


def costs(settings: Settings) -> list[Pair]:
    """Return every pair of trunk and language model."""
    return [(vision, language) for vision in settings.visions for language in settings.languages]


check = check_models


def table(results: Results, _settings: Settings) -> DataFrame:
    """Return parameters, FLOPs, speed and memory of each ViT without and with a block.

    A plain ViT that was measured with several language models is one row, the first of them.
    The paper's three numbers are shown next to its own models only, known by their parameters.

    Raises:
        ValueError: If there are no costs.
    """
    costs = results.costs
    check_some(costs, "cost", "cost files")
    again = costs.duplicated(["vision_title", "variant"]) & (costs["variant"] == "vanilla")
    costs = costs[~again].reset_index(names="line")
    rows = [
        RowSpec(_label(line), {"line": line["line"]}, _printed_row(line))
        for _, of_vision in costs.groupby("vision_title", sort=False)
        for variant in VARIANTS
        for _, line in of_vision[of_vision["variant"] == variant].iterrows()
    ]
    units = {column.name: column.unit.partition(" per ")[0] for column in COST.columns}
    columns = [
        ColumnSpec(
            label.name,
            (Metric(name, label.name, units[name], power_of_thousand(float(costs[name].max()))),),
            group=label.group,
            printed=Label(name),
        )
        for name, label in QUANTITIES.items()
    ]
    return fill(TableSpec("cost", rows, columns, printed("cost")), costs).assign(seeds=0)


def _label(line: Series) -> str:
    if line["variant"] == "vanilla":
        return str(line["vision_title"])
    return f"{line['vision_title']} + {line['language_title']}, {line['variant']}"


def _printed_row(line: Series) -> Label | None:
    return Label(row) if (row := COSTED.get((line["variant"], int(line["parameters"])))) else None
