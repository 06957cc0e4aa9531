"""The paper's six tables as frames, ours beside the printed numbers.

Each ``table<n>`` returns the rows of a ``CELLS`` table in the paper's order: mean and
standard deviation over seeds, the paper's number in the same unit, and the difference. A
cell of ours stands beside the printed cell of the same model, data set, layer and weight;
models and data sets that the paper does not know stand beside those of the same rank (the
smallest beside the smallest), as do the layers of another language model than the paper's.
Accuracies are in percent, gains in percentage points, GSNR in the power of ten that fits
the column. A label ``group: name`` is one column under a common head.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from pandas import DataFrame, Series

from rectify.analysis import paper
from rectify.analysis.printing import GROUP
from rectify.analysis.selection import POSITIONS
from rectify.analysis.statistics import paired_gains, summary
from rectify.records import CELLS

PERCENT = 100.0
OURS_ALONE = ("corruption_error",)
"""Metrics whose columns the paper does not have."""
CONTROLS = {
    "vanilla": "vanilla",
    "insert": "frozen block",
    "random": "random frozen block",
    "adapter": "adapters alone",
    "mlp": "MLP of the adapters' size",
    "tuned": "tuned block",
}
COSTS = {
    "parameters": f"parameters{GROUP}training",
    "trained_parameters": f"parameters{GROUP}trained",
    "test_parameters": f"parameters{GROUP}test",
    "flops": f"FLOPs per image{GROUP}paper's count",
    "flops_matmuls_without_attention": f"FLOPs per image{GROUP}without attention",
    "flops_matmuls_with_attention": f"FLOPs per image{GROUP}all products",
    "training_flops": f"FLOPs per image{GROUP}training step",
    "training_images_per_second": f"images per second{GROUP}training",
    "test_images_per_second": f"images per second{GROUP}test",
    "training_peak_bytes": f"peak bytes{GROUP}training",
    "test_peak_bytes": f"peak bytes{GROUP}test",
}


def table1(similarity: DataFrame) -> DataFrame:
    """Return the best Mutual-KNN over all pairs of layers, by size of ViT and language model.

    Below each score stands its calibrated value (0 for permuted items), at the end of the row
    the chance level.

    Raises:
        ValueError: If there is no similarity, or two of the same models and seed.
    """
    _check_some(similarity, "table1", "similarity files, pass them with --similarity")
    visions = _sizes(similarity, "vision", paper.printed_rows("table1"))
    languages = _sizes(similarity, "language", paper.printed_columns("table1"))
    models = ["vision", "language", "seed"]
    pairs = similarity.groupby(models, sort=False)
    _check_once(pairs.size() / pairs[["language_layer", "vision_block"]].nunique().prod(axis=1))
    best = pairs[["mutual_knn", "mutual_knn_calibrated", "chance"]].max().reset_index()
    cells = []
    for vision, (row, paper_row) in visions.items():
        of_vision = best[best["vision"] == vision]
        for suffix, metric in (("", "mutual_knn"), (", calibrated", "mutual_knn_calibrated")):
            for language, (column, paper_column) in languages.items():
                scores = of_vision.loc[of_vision["language"] == language, metric]
                printed = None if suffix else paper.printed_cell("table1", paper_row, paper_column)
                cells.append(_cell(f"{row}{suffix}", column, "share", scores, printed))
        chance = of_vision.groupby("seed")["chance"].max()
        cells.append(_cell(row, "chance", "share", chance, None))
    return _frame(cells)


def table2(runs: DataFrame, data: Sequence[str]) -> DataFrame:
    """Return accuracy by size of the inserted language model, and its gain over vanilla."""
    chosen = _of(runs, "table2", data[0], ("vanilla", "insert"))
    gains = paired_gains(chosen)
    _check_some(gains, "table2", f"runs of variant insert on {data[0]}, pass them with --runs")
    languages = {n: f"+{label}" for n, label in _titles(gains, "language").items()}
    visions = _titles(gains, "vision")
    paper_rows = _paper_rows("table2", visions.values())
    paper_columns = _paper_columns("table2", languages.values())
    cells = []
    for vision, title in visions.items():
        for suffix, unit, metric in (("", "%", "accuracy_top1"), (paper.GAIN, "points", "gain")):
            for language, column in languages.items():
                values = _values(gains, metric, "table2", vision=vision, language=language)
                row = paper_rows[title] and f"{paper_rows[title]}{suffix}"
                printed = paper.printed_cell("table2", row, paper_columns[column])
                cells.append(_cell(f"{title}{suffix}", column, unit, values, printed))
    return _frame(cells)


def table3(runs: DataFrame, data: Sequence[str]) -> DataFrame:
    """Return accuracy by position (rows) and layer (columns) of the inserted block."""
    chosen = _of(runs, "table3", data[0], ("insert",))
    layers = {layer: f"{int(layer)}" for layer in sorted(chosen["layer"].unique())}
    paper_columns: dict[str, str | None] = {column: column for column in layers.values()}
    if set(chosen["language_title"]) != {paper.LANGUAGE}:  # its depth may differ
        paper_columns = paper.match(list(layers.values()), paper.printed_columns("table3"))
    cells = []
    for position in POSITIONS:
        row = position.capitalize()
        for layer, column in layers.items():
            values = _values(chosen, "accuracy_top1", "table3", position=position, layer=layer)
            printed = paper.printed_cell("table3", row, paper_columns[column])
            cells.append(_cell(row, column, "%", values, printed))
    return _frame(cells)


def table4(runs: DataFrame, data: Sequence[str], estimator: str = "plain") -> DataFrame:
    """Return accuracy, robustness and GSNR with and without auxiliary training.

    The paper's number for ImageNet-C is mean accuracy; where all fifteen corruptions were
    evaluated, mCE (in percent of AlexNet's error) stands beside it.

    Args:
        runs: Rows of `collect_runs`.
        data: The image set, evaluated clean and under shift, then the video set.
        estimator: Estimator of GSNR.
    """
    shifts = [("", "accuracy_top1"), ("-C", "accuracy_c"), ("-C mCE", "corruption_error")]
    shifts += [("-A", "accuracy_a"), ("-SK", "accuracy_sk"), ("-R", "accuracy_r")]
    columns = []
    for name, metrics in zip(data, (shifts, None), strict=False):
        title, accuracies = _accuracies(_of(runs, "table4", name, ("vanilla", "auxiliary")))
        if metrics is not None:
            accuracies = [(f"{title}{suffix}", metric) for suffix, metric in metrics]
        columns += _columns(name, title, [*accuracies, ("GSNR", f"gsnr_{estimator}")])
    return _auxiliary_table("table4", runs, data, columns)


def table5(runs: DataFrame, data: Sequence[str], estimator: str = "plain") -> DataFrame:
    """Return accuracy and GSNR on two data sets with and without auxiliary training."""
    columns = []
    for name in data:
        title, accuracies = _accuracies(_of(runs, "table5", name, ("vanilla", "auxiliary")))
        columns += _columns(name, title, [*accuracies, ("GSNR", f"gsnr_{estimator}")])
    return _auxiliary_table("table5", runs, data, columns)


def table6(runs: DataFrame, data: Sequence[str]) -> DataFrame:
    """Return accuracy by weight of the auxiliary loss; weight 0 is the vanilla run."""
    chosen = runs[runs["data"].isin(data) & runs["variant"].isin(["vanilla", "auxiliary"])]
    weights = {weight: f"{weight:g}" for weight in sorted(chosen["lambda_init"].unique())}
    columns = []
    for name in data:
        columns += _columns(name, *_accuracies(_of(runs, "table6", name, ("vanilla", "auxiliary"))))
    paper_columns = _paper_columns("table6", [label for _, label, _ in columns])
    cells = []
    for weight, row in weights.items():
        for name, label, metric in columns:
            values = _values(chosen, metric, "table6", data=name, lambda_init=weight)
            printed = paper.printed_cell("table6", row, paper_columns[label])
            cells.append(_cell(row, label, "%", values, printed))
    return _frame(cells)


def controls(runs: DataFrame, data: Sequence[str], estimator: str = "plain") -> DataFrame:
    """Return what each control gains over vanilla, beside the frozen pretrained block.

    The paper has no such table; it tells the block's share from that of the adapters, of a
    block that was never trained, and of more trainable parameters.
    """
    chosen = _of(runs, "controls", data[0], tuple(CONTROLS))
    _, accuracies = _accuracies(chosen)
    metrics = [*accuracies, ("GSNR", f"gsnr_{estimator}"), ("gain", "gain")]
    unit = _unit(chosen[f"gsnr_{estimator}"], f"gsnr_{estimator}")
    units = {"gain": "points", "GSNR": unit}
    cells = []
    for variant, row in CONTROLS.items():
        same = chosen[chosen["variant"] == variant]
        rows = same if variant == "vanilla" else paired_gains(chosen, variant)
        for label, metric in metrics:
            values = _values(rows, metric, "controls") if metric in rows else Series(dtype=float)
            cells.append(_cell(row, label, units.get(label, "%"), values, None))
    return _frame(cells)


def cost(costs: DataFrame) -> DataFrame:
    """Return parameters, FLOPs, speed and memory of each ViT without and with a block.

    A plain ViT that was measured beside several language models is one row, the first of them.
    The paper's three numbers stand beside its own models only, known by their parameters.

    Raises:
        ValueError: If there are no costs.
    """
    _check_some(costs, "cost", "cost files, pass them with --costs")
    again = costs.duplicated(["vision_title", "variant"]) & (costs["variant"] == "vanilla")
    costs = costs[~again]
    lines = [
        line
        for _, of_vision in costs.groupby("vision_title", sort=False)
        for variant in ("vanilla", "insert", "auxiliary")
        for _, line in of_vision[of_vision["variant"] == variant].iterrows()
    ]
    units = {name: _engineering(costs[name].max()) for name in COSTS}
    cells = []
    for line in lines:
        row = line["vision_title"]
        if line["variant"] != "vanilla":
            row += f" + {line['language_title']}, {line['variant']}"
        printed = paper.cost_cells(line["variant"], int(line["parameters"]))
        for name, label in COSTS.items():
            cells.append(_cell(row, label, units[name], Series([line[name]]), printed.get(name)))
    return _frame(cells).assign(seeds=0)


RUN_TABLES = {
    "controls": controls,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
}


def _frame(cells: list[dict[str, Any] | None]) -> DataFrame:
    frame = DataFrame([cell for cell in cells if cell is not None], columns=CELLS.names)
    types = {column.name: column.dtype for column in CELLS.columns if column.dtype != "str"}
    return frame.astype(types)


def _cell(
    row: str, column: str, unit: str, values: Series, printed: paper.Cell | None
) -> dict[str, Any] | None:
    if values.dropna().empty:
        return None
    factor = {"%": PERCENT, "points": 1.0, "share": 1.0}.get(unit) or 1 / float(unit)
    mean, std, seeds = summary(values * factor)
    theirs = math.nan if printed is None else printed.value
    if printed is not None and printed.unit != unit:
        theirs *= float(printed.unit) / float(unit)
    return {
        "row": row,
        "column": column,
        "unit": unit,
        "mean": mean,
        "std": math.nan if std is None else std,
        "seeds": seeds,
        "paper": theirs,
        "difference": mean - theirs,
        "paper_row": printed.row if printed else "-",
        "paper_column": printed.column if printed else "-",
    }


def _auxiliary_table(
    table: str, runs: DataFrame, data: Sequence[str], columns: list[tuple[str, str, str]]
) -> DataFrame:
    rows = _vision_rows(table, runs, data)
    paper_rows = _paper_rows(table, [title for title, _ in rows])
    theirs = [label for _, label, metric in columns if metric not in OURS_ALONE]
    paper_columns = _paper_columns(table, theirs)
    units = {
        column: _unit(runs[runs["data"] == column[0]][column[2]], column[2]) for column in columns
    }
    cells = []
    for title, visions in rows:
        for variant, suffix in (("vanilla", ""), ("auxiliary", " +AUX")):
            row = paper_rows[title] and f"{paper_rows[title]}{suffix}"
            for column in columns:
                name, label, metric = column
                values = _values(
                    runs, metric, table, data=name, vision=visions.get(name), variant=variant
                )
                printed = paper.printed_cell(table, row, paper_columns.get(label))
                cells.append(_cell(f"{title}{suffix}", label, units[column], values, printed))
    return _frame(cells)


def _vision_rows(
    table: str, runs: DataFrame, data: Sequence[str]
) -> list[tuple[str, dict[str, str]]]:
    """Return per row its title and the ViT of each data set, matched from small to large."""
    titles = {name: _titles(_of(runs, table, name, ("auxiliary",)), "vision") for name in data}
    first = titles[data[0]]
    rows: list[tuple[str, dict[str, str]]] = [(t, {data[0]: vision}) for vision, t in first.items()]
    for name in data[1:]:
        matched = paper.match(list(titles[name].values()), list(first.values()))
        for vision, title in titles[name].items():
            for row_title, visions in rows:
                if row_title == matched[title]:
                    visions[name] = vision
    return rows


def _engineering(largest: float) -> str:
    """Return the power of 1,000 that fits a column; 1e0 for an empty one."""
    return f"1e{3 * math.floor(math.log10(largest) / 3)}" if largest > 0 else "1e0"


def _unit(values: Series, metric: str) -> str:
    if not metric.startswith("gsnr"):
        return "%"
    largest = values.abs().max()
    return f"1e{math.floor(math.log10(largest))}" if largest > 0 else "1e0"


def _accuracies(runs: DataFrame) -> tuple[str, list[tuple[str, str]]]:
    k = int(runs["k"].iloc[0])
    return runs["data_title"].iloc[0], [("acc@1", "accuracy_top1"), (f"acc@{k}", "accuracy_topk")]


def _columns(data: str, title: str, metrics: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(data, f"{title}{GROUP}{label}", metric) for label, metric in metrics]


def _paper_rows(table: str, titles: Iterable[str]) -> dict[str, str | None]:
    skipped = (paper.GAIN, " +AUX")
    printed = [label for label in paper.printed_rows(table) if not label.endswith(skipped)]
    return paper.match_names(list(titles), printed)


def _paper_columns(table: str, labels: Iterable[str]) -> dict[str, str | None]:
    return paper.match_names(list(labels), paper.printed_columns(table))


def _titles(frame: DataFrame, kind: str) -> dict[str, str]:
    """Return name and title of the models in a frame, from the smallest to the largest."""
    models = frame[[kind, f"{kind}_title", f"{kind}_parameters"]].drop_duplicates(kind)
    models = models.sort_values(f"{kind}_parameters", kind="stable")
    return dict(zip(models[kind], models[f"{kind}_title"], strict=True))


def _sizes(
    frame: DataFrame, kind: str, printed: Sequence[str]
) -> dict[str, tuple[str, str | None]]:
    """Return per model its title with its size, and the paper's label of that size."""
    titles = _titles(frame, kind)
    parameters = frame.drop_duplicates(kind).set_index(kind)[f"{kind}_parameters"]
    sizes = {name: float(parameters[name]) for name in titles}
    theirs = paper.match_sizes(sizes, printed)
    return {
        name: (f"{title} ({_size_text(sizes[name])})", theirs[name])
        for name, title in titles.items()
    }


def _size_text(parameters: float) -> str:
    """Return a number of parameters as people say it: 6.7B, 22M, 85k."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= factor:
            scaled = parameters / factor
            return f"{scaled:.0f}{letter}" if scaled >= 10 else f"{scaled:.2g}{letter}"
    return f"{parameters:.0f}"


def _of(runs: DataFrame, table: str, data: str, variants: tuple[str, ...]) -> DataFrame:
    chosen = runs[(runs["data"] == data) & runs["variant"].isin(variants)]
    wanted = f"runs of variant {' or '.join(variants)} on {data}, pass them with --runs"
    _check_some(chosen, table, wanted)
    return chosen


def _check_some(frame: DataFrame, table: str, wanted: str) -> None:
    if frame.empty:
        needed, _, change = wanted.partition(", ")
        raise ValueError(f"{table}: there must be {needed}, got none. {change.capitalize()}.")


def _check_once(copies: Series) -> None:
    if (copies > 1).any():
        models = ", ".join(f"{value}" for value in copies.index[copies > 1][0])
        raise ValueError(
            f"table1: each pair of models must be compared once per seed, got {models} twice. "
            "Pass one file of the two with --similarity."
        )


def _values(runs: DataFrame, metric: str, table: str, **settings: Any) -> Series:
    """Return a metric of the one run that has these settings, one value per seed."""
    chosen = runs
    for name, value in settings.items():
        chosen = chosen[chosen[name] == value]
    names = list(chosen["run"].unique())
    if len(names) > 1:
        raise ValueError(
            f"{table}: one run must stand behind a cell, got {' and '.join(names)}. "
            "Leave one of them out of --runs."
        )
    return pd.to_numeric(chosen[metric])
