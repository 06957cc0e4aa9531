"""The paper's figures 2 to 5 and the heat map of Table 3, from frames.

Every function returns the figure and the frame of the values that it shows; the frames of
the GSNR figures carry all estimators, of which one is drawn. Lines and bars are means over
seeds, thin lines and dots are single seeds: nothing on a figure claims an interval that
two seeds cannot support.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from pandas import DataFrame

from rectify.analysis import style
from rectify.analysis.printing import seed_count
from rectify.analysis.selection import POSITIONS, placement_similarity, predicted_choice
from rectify.analysis.statistics import (
    Correlation,
    format_spread,
    paired_gains,
    rank_correlation,
)
from rectify.analysis.values import VALUES

PLACES = [(6, 4), (6, -9), (-6, 4), (-6, -9), (0, 7), (0, -12), (12, -2), (-12, -2)]  # points


class Drawn(NamedTuple):
    """A figure and the values that it shows."""

    figure: Figure
    values: DataFrame


def figure2(gsnr: DataFrame, estimator: str = "plain") -> Drawn:
    """Draw GSNR over epochs of a vanilla run and of runs with an inserted block.

    Args:
        gsnr: Rows of `collect_gsnr`, of one data set.
        estimator: The estimator that is drawn; the values carry all.
    """
    chosen = gsnr[gsnr["variant"].isin(["vanilla", "insert"])]
    _check(chosen, "figure2", "runs of variant vanilla and insert")
    keys = ["run", "seed", "epoch", "estimator"]
    values = chosen.groupby(keys, as_index=False)["gsnr"].mean()
    labels = {run: _label(rows.iloc[0]) for run, rows in chosen.groupby("run", sort=False)}
    values.insert(1, "label", values["run"].map(labels))
    variants = chosen.drop_duplicates("run").set_index("run")["variant"]
    with style.look():
        figure = Figure(figsize=(style.COLUMN, 2.6))
        axes = figure.subplots()
        styles: dict[str, int] = {}
        for run in labels:
            variant = variants[run]
            dashes = ("-", "--", ":", "-.")[styles.setdefault(variant, 0) % 4]
            styles[variant] += 1
            rows = values[(values["run"] == run) & (values["estimator"] == estimator)]
            _curve(axes, rows, labels[run], style.VARIANT_COLOURS[variant], dashes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel=f"GSNR ({estimator})")
        axes.set_title(f"{chosen['data_title'].iloc[0]}, {_seeds(chosen)}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return Drawn(figure, values)


def figure3(gsnr: DataFrame, estimator: str = "plain") -> Drawn:
    """Draw the gain in GSNR of each ViT block, one panel per position of the inserted block.

    Raises:
        ValueError: If there is not one vanilla run, and one run for each position.
    """
    values = _differences(gsnr)
    drawn = values[values["estimator"] == estimator]
    positions = [name for name in POSITIONS if name in set(values["position"])]
    with style.look():
        figure = Figure(figsize=(style.PAGE, 2.5))
        panels = figure.subplots(1, len(positions), sharey=True, squeeze=False)[0]
        for panel, position in zip(panels, positions, strict=True):
            _difference_panel(panel, drawn[drawn["position"] == position], position)
        panels[0].set_ylabel(f"GSNR ({estimator}) less vanilla")
        colour = style.VARIANT_COLOURS["insert"]
        handles = [Patch(color=colour, alpha=0.75, label=f"mean, {_seeds(drawn)}")]
        handles += [Line2D([], [], **_DOT, label="one seed")] * (drawn["seed"].nunique() > 1)
        handles += [Line2D([], [], **_INSERTION, label="inserted block")]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.suptitle(_setting(gsnr[gsnr["variant"] == "insert"]), fontsize=8.5)
    return Drawn(figure, values)


def figure4(similarity: DataFrame) -> Drawn:
    """Draw Mutual-KNN between all layers of a language model and all blocks of a ViT.

    Several language models stand side by side, with the same colours for the same values.

    Raises:
        ValueError: If there are no rows, or rows of more than one ViT.
    """
    _check(similarity, "figure4", "a similarity file")
    _only(similarity, "vision", "figure4")
    measured = similarity.groupby(["language", "language_layer", "vision_block"], as_index=False)
    values = measured[["mutual_knn", "mutual_knn_calibrated", "chance"]].mean()
    values["seeds"] = measured["seed"].nunique()["seed"]
    titles = dict(zip(similarity["language"], similarity["language_title"], strict=True))
    shades = Normalize(values["mutual_knn"].min(), values["mutual_knn"].max())
    with style.look():
        figure = Figure(figsize=(style.COLUMN if len(titles) == 1 else style.PAGE, 3.1))
        panels = figure.subplots(1, len(titles), squeeze=False)[0]
        for axes, (language, title) in zip(panels, titles.items(), strict=True):
            rows = values[values["language"] == language]
            grid = rows.pivot(index="language_layer", columns="vision_block", values="mutual_knn")
            image = _heat(axes, grid, shades, lower=True)
            axes.set(xlabel=f"block of {similarity['vision_title'].iloc[0]}")
            axes.set(ylabel=f"layer of {title}", title=f"{title}, {_seeds(similarity)}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        chance = values["chance"].mean()
        figure.colorbar(image, ax=panels, pad=0.02, label=f"Mutual-KNN (chance {chance:.4f})")
    return Drawn(figure, values)


def figure5(runs: DataFrame, similarity: DataFrame) -> Drawn:
    """Draw the gain over vanilla against the similarity at the place of insertion.

    Args:
        runs: Rows of `collect_runs`: runs of one language model in one ViT, and vanilla.
        similarity: Rows of `collect_similarity` of the same two models, and perhaps others.

    Raises:
        ValueError: If a placement has no similarity, or a run no vanilla run.
    """
    values = _gains_by_similarity(runs, similarity)
    overall = rank_correlation(values["similarity"], values["gain"])
    with style.look():
        figure = Figure(figsize=(style.COLUMN, 3.4))
        axes = figure.subplots()
        axes.axhline(0, color="#9a9a9a", linewidth=0.8)
        for position in POSITIONS:
            rows = values[values["position"] == position]
            if len(rows):
                _gain_points(axes, rows, position)
        best = values[list(map(predicted_choice(values).__eq__, _places(values)))].iloc[0]
        axes.plot(best["similarity"], best["gain"], **_CHOICE, label="highest similarity")
        axes.set(xlabel="Mutual-KNN with the adjacent ViT blocks", ylabel="gain in acc@1 (points)")
        axes.margins(x=0.1, y=0.1)
        insert = runs[runs["variant"] == "insert"]
        axes.set_title(f"{_setting(insert)}\nall: {_correlation(overall, len(values))}")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
        _write_layers(figure, axes, values)
    return Drawn(figure, values)


def table3_heatmap(runs: DataFrame) -> Drawn:
    """Draw accuracy by position (rows) and layer (columns) of the inserted block."""
    insert = runs[runs["variant"] == "insert"]
    _check(insert, "table3", "runs of variant insert")
    measured = insert.assign(percent=100 * insert["accuracy_top1"]).astype({"layer": "int64"})
    groups = measured.groupby(["layer", "position"], as_index=False)["percent"]
    values = groups.mean().rename(columns={"percent": "mean"})
    values["std"] = groups.std()["percent"]
    values["seeds"] = groups.count()["percent"]
    grid = values.pivot(index="position", columns="layer", values="mean")
    grid = grid.reindex([name for name in POSITIONS if name in grid.index])
    vanilla = runs.loc[runs["variant"] == "vanilla", "accuracy_top1"]
    beside = f"; vanilla {100 * vanilla.mean():.2f}" if len(vanilla) else ""
    with style.look():
        figure = Figure(figsize=(style.PAGE * 0.75, 2.2))
        axes = figure.subplots()
        shades = Normalize(values["mean"].min(), values["mean"].max())
        image = _heat(axes, grid, shades, lower=False)
        axes.set_xticks(range(grid.shape[1]), [f"{layer}" for layer in grid.columns])
        axes.set_yticks(range(grid.shape[0]), [name.capitalize() for name in grid.index])
        axes.set(xlabel=f"layer of {insert['language_title'].iloc[0]}", ylabel="position")
        axes.set_title(f"{_setting(insert)}{beside}, {_seeds(insert)}")
        _write_cells(axes, shades, grid, values)
        figure.colorbar(image, ax=axes, pad=0.02, label="acc@1 (%)")
    return Drawn(figure, values)


_DOT = {"marker": "o", "markersize": 2.6, "linestyle": "", "color": "#1a1a1a"}
_INSERTION = {"linestyle": "--", "linewidth": 1.2, "color": "#d55e00"}
_CHOICE = {
    "marker": "o",
    "markersize": 11,
    "linestyle": "",
    "zorder": 1,
    "markerfacecolor": "none",
    "markeredgecolor": "#d55e00",
    "markeredgewidth": 1.2,
}


def _check(frame: DataFrame, where: str, wanted: str) -> None:
    if frame.empty:
        raise ValueError(f"{where}: there must be {wanted}, got none. Name them on the command.")


def _only(frame: DataFrame, column: str, where: str) -> str:
    values = list(frame[column].unique())
    if len(values) != 1:
        raise ValueError(
            f"{where}: all rows must have the same {column}, got {', '.join(map(str, values))}. "
            "Leave the others out."
        )
    return str(values[0])


def _seeds(frame: DataFrame) -> str:
    return seed_count(frame["seed"].nunique())


def _label(run: pd.Series) -> str:
    if run["variant"] == "vanilla":
        return str(run["vision_title"])
    block = f"{run['language_title']} layer {int(run['layer'])}"
    return f"{run['vision_title']} + {block}, {run['position']}"


def _setting(insert: DataFrame) -> str:
    first = insert.iloc[0]
    return f"{first['language_title']} in {first['vision_title']}, {first['data_title']}"


def _curve(axes: Axes, rows: DataFrame, label: str, colour: str, dashes: str) -> None:
    by_seed = rows.pivot(index="epoch", columns="seed", values="gsnr")
    if by_seed.shape[1] > 1:
        axes.plot(by_seed.index, by_seed, color=colour, linewidth=0.6, alpha=0.5, linestyle=dashes)
    axes.plot(by_seed.index, by_seed.mean(axis=1), color=colour, label=label, linestyle=dashes)


def _differences(gsnr: DataFrame) -> DataFrame:
    insert, vanilla = (gsnr[gsnr["variant"] == name] for name in ("insert", "vanilla"))
    _check(insert, "figure3", "runs of variant insert")
    _check(vanilla, "figure3", "a vanilla run")
    _only(vanilla, "run", "figure3")
    for _, rows in insert.groupby("position"):
        _only(rows, "run", "figure3")
    keys = ["seed", "block", "estimator"]
    settings = ["run", "position", "insert_at"]
    values = insert.groupby([*settings, *keys], as_index=False)["gsnr"].mean()  # Eq. 7
    baseline = vanilla.groupby(keys)["gsnr"].mean().rename("vanilla")
    values = values.join(baseline, on=keys).astype({"insert_at": "int64"})
    values["difference"] = values["gsnr"] - values["vanilla"]
    return values


def _difference_panel(axes: Axes, rows: DataFrame, position: str) -> None:
    means = rows.groupby("block")["difference"].mean()
    colour = style.VARIANT_COLOURS["insert"]
    axes.bar(means.index, means, width=0.7, color=colour, alpha=0.75)
    if rows["seed"].nunique() > 1:
        axes.plot(rows["block"], rows["difference"], **_DOT)
    axes.axhline(0, color="#1a1a1a", linewidth=0.8)
    insert_at = int(rows["insert_at"].iloc[0])
    axes.axvline(insert_at - 0.5, **_INSERTION)
    axes.set(xlabel="ViT block", xlim=(-0.9, means.index.max() + 0.9))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(f"{position}: after {insert_at} block{'' if insert_at == 1 else 's'}")


def _heat(axes: Axes, grid: DataFrame, shades: Normalize, lower: bool) -> AxesImage:
    axes.grid(False)
    axes.spines[:].set_visible(False)
    origin = "lower" if lower else "upper"
    return axes.imshow(grid, cmap=style.HEAT, norm=shades, aspect="auto", origin=origin)


def _gains_by_similarity(runs: DataFrame, similarity: DataFrame) -> DataFrame:
    gains = paired_gains(runs)
    _check(gains, "figure5", "runs of variant insert")
    for model in ("data", "vision", "language"):
        _only(gains, model, "figure5")
    first = gains.iloc[0]
    same = similarity["vision"] == first["vision"]
    same &= similarity["language"] == first["language"]
    _check(similarity[same], "figure5", f"similarity of {first['language']}, {first['vision']}")
    placed = placement_similarity(similarity[same], gains)
    measured = gains.groupby(["layer", "position"])["gain"].agg(
        gain="mean", least="min", most="max", seeds="count"
    )
    values = placed.join(measured, on=["layer", "position"]).astype({"layer": "int64"})
    return values[VALUES["figure5"].names].sort_values(["layer", "position"], ignore_index=True)


def _places(values: DataFrame) -> list[tuple[int, str]]:
    return list(zip(values["layer"], values["position"], strict=True))


def _gain_points(axes: Axes, rows: DataFrame, position: str) -> None:
    found = rank_correlation(rows["similarity"], rows["gain"])
    colour = style.POSITION_COLOURS[position]
    axes.vlines(rows["similarity"], rows["least"], rows["most"], color=colour, linewidth=0.9)
    axes.plot(
        rows["similarity"],
        rows["gain"],
        marker=style.POSITION_MARKERS[position],
        linestyle="",
        color=colour,
        label=f"{position}: {_correlation(found, len(rows))}",
    )


def _correlation(found: Correlation | None, n: int) -> str:
    if found is None:
        return f"n = {n}"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"Spearman ρ = {found.rho:.2f}, {p}, n = {found.n}"


def _write_layers(figure: Figure, axes: Axes, values: DataFrame) -> None:
    """Write each point's layer beside it, where it hides the fewest points and labels."""
    figure.draw_without_rendering()  # the layout must be known
    unit = figure.dpi / 72
    points, *lines = (
        axes.transData.transform(np.column_stack([values["similarity"], heights])) / unit
        for heights in _heights(values)
    )
    taken = np.concatenate([points, *lines])
    for layer, similarity, gain, point in zip(
        values["layer"], values["similarity"], values["gain"], points, strict=True
    ):
        spots = [point + np.add(place, (0, 2.5)) for place in PLACES]
        place = PLACES[int(np.argmin([_crowd(spot, taken) for spot in spots]))]
        taken = np.vstack([taken, point + np.add(place, (0, 2.5))])
        axes.annotate(
            f"{layer}",
            (similarity, gain),
            xytext=place,
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[int(np.sign(place[0]))],
            fontsize=6.5,
            color="#333333",
        ).set_in_layout(False)


def _heights(values: DataFrame) -> Iterator[np.ndarray]:
    """Yield the heights of the points, then heights along the lines from least to most."""
    yield values["gain"].to_numpy()
    for share in np.linspace(0, 1, 7):
        yield (values["least"] * (1 - share) + values["most"] * share).to_numpy()


def _crowd(spot: np.ndarray, taken: np.ndarray) -> int:
    near = np.abs(taken - spot)
    return int(np.sum((near[:, 0] < 6) & (near[:, 1] < 6)))


def _write_cells(axes: Axes, shades: Normalize, grid: DataFrame, values: DataFrame) -> None:
    rows, columns = list(grid.index), list(grid.columns)
    for cell in values.itertuples(index=False):
        text = format_spread(cell.mean, None if np.isnan(cell.std) else cell.std)
        axes.text(
            columns.index(cell.layer),
            rows.index(cell.position),
            text.replace(" ±", "\n±"),
            ha="center",
            va="center",
            fontsize=7,
            color="black" if shades(cell.mean) > 0.55 else "white",
        )
