"""The figures: their values, what is drawn of them, and the same bytes every time."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from pandas import DataFrame

from rectify.analysis import figures, style
from rectify.analysis.collect import collect_gsnr, collect_runs, collect_similarity
from rectify.analysis.values import VALUES
from rectify.records import read_table, write_table
from tests.analysis import synthetic


def folders(demo: synthetic.Made, *endings: str) -> list:
    glyphs = [folder for folder in demo.runs if folder.name.startswith("glyphs_vit-s_")]
    plain = [f for f in glyphs if "auxiliary" not in f.name and "opt" not in f.name]
    return [folder for folder in plain if folder.name.endswith(endings)]


@pytest.fixture(scope="module")
def gsnr(demo) -> DataFrame:
    return collect_gsnr(
        [*folders(demo, "vanilla"), *folders(demo, "insert_llama-xl_layer-7_early",
         "insert_llama-xl_layer-7_middle", "insert_llama-xl_layer-7_end")], [0, 1])  # fmt: skip


@pytest.fixture(scope="module")
def runs(demo) -> DataFrame:
    chosen = [f for f in folders(demo, "") if "insert" in f.name or "vanilla" in f.name]
    return collect_runs(chosen, [0, 1])


@pytest.fixture(scope="module")
def similarity(demo) -> DataFrame:
    return collect_similarity([f for f in demo.similarity if "--vit-s--" in f.name])


def draw(name: str, gsnr: DataFrame, runs: DataFrame, similarity: DataFrame) -> figures.Drawn:
    """Draw any of the figures from frames that hold what all of them need, and more."""
    if name == "figure2":
        return figures.figure2(gsnr[gsnr["position"].isna() | (gsnr["position"] == "end")])
    if name == "figure3":
        return figures.figure3(gsnr)
    if name == "figure4":
        chosen = similarity[similarity["language"].isin(["llama-xl", "llama-untrained"])]
        return figures.figure4(chosen)
    return figures.figure5(runs, similarity) if name == "figure5" else figures.table3_heatmap(runs)


NAMES = list(VALUES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", ["pdf", "png"])
def test_a_figure_has_the_same_bytes_every_time(name, suffix, gsnr, runs, similarity):
    copies = []
    for _ in range(2):
        figure, buffer = draw(name, gsnr, runs, similarity).figure, io.BytesIO()
        with style.look():
            metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
            figure.savefig(buffer, format=suffix, metadata=metadata)
        copies.append(buffer.getvalue())
    assert copies[0] == copies[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_a_figure_are_a_declared_table(name, gsnr, runs, similarity, tmp_path):
    values = draw(name, gsnr, runs, similarity).values
    write_table(VALUES[name], values, tmp_path / "values.csv", synthetic.SOURCE)
    assert len(read_table(VALUES[name], tmp_path / "values.csv")) == len(values) > 0


@pytest.mark.parametrize("seeds", [[0], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("name", NAMES)
def test_figures_are_drawn_for_one_two_or_three_seeds(name, seeds, gsnr, runs, similarity):
    frames = [_with_seeds(frame, seeds) for frame in (gsnr, runs, similarity)]
    figure = draw(name, *frames).figure
    figure.draw_without_rendering()
    texts = [text.get_text() for text in figure.findobj(Text)]
    if name != "figure5":  # which counts placements
        assert any(f"n = {len(seeds)} seed" in text for text in texts)


def _with_seeds(frame: DataFrame, seeds: list[int]) -> DataFrame:
    third = frame[frame["seed"] == 0].assign(seed=2)
    more = pd.concat([frame, third], ignore_index=True)
    return more[more["seed"].isin(seeds)]


def test_figure_2_draws_the_mean_over_seeds_and_each_seed(gsnr):
    drawn = draw("figure2", gsnr, DataFrame(), DataFrame())
    vanilla = drawn.values[(drawn.values["label"] == "ViT-64")]
    vanilla = vanilla[vanilla["estimator"] == "plain"]
    lines = {line.get_label(): line.get_ydata() for line in drawn.figure.axes[0].get_lines()}
    means = vanilla.groupby("epoch")["gsnr"].mean()
    assert np.array_equal(lines["ViT-64"], means)
    assert len(drawn.figure.axes[0].get_lines()) == 2 * (2 + 1)
    blocks = gsnr[(gsnr["variant"] == "vanilla") & (gsnr["estimator"] == "plain")]
    first = blocks[(blocks["seed"] == 0) & (blocks["epoch"] == 0)]["gsnr"].mean()
    assert vanilla["gsnr"].iloc[0] == pytest.approx(first)
    assert set(drawn.values["estimator"]) == {"plain", "debiased", "xi", "unnormalised"}


def test_figure_3_draws_the_paired_difference_and_marks_the_block(gsnr):
    drawn = figures.figure3(gsnr, "debiased")
    assert [axes.get_title() for axes in drawn.figure.axes] == [
        "early: after 0 blocks", "middle: after 3 blocks", "end: after 6 blocks",
    ]  # fmt: skip
    end = drawn.values[(drawn.values["position"] == "end")]
    end = end[end["estimator"] == "debiased"]
    bars = [bar.get_height() for bar in drawn.figure.axes[2].patches]
    assert bars == pytest.approx(end.groupby("block")["difference"].mean().tolist())
    marks = [line.get_xdata()[0] for line in drawn.figure.axes[2].get_lines()[-1:]]
    assert marks == [5.5]
    assert (end["difference"] == end["gsnr"] - end["vanilla"]).all()


def test_figure_4_draws_the_mean_grid_and_names_the_chance_level(similarity):
    drawn = draw("figure4", DataFrame(), DataFrame(), similarity)
    image = drawn.figure.axes[0].get_images()[0].get_array()
    values = drawn.values[drawn.values["language"] == "llama-xl"]
    cell = values[(values["language_layer"] == 7) & (values["vision_block"] == 5)]
    assert image[7, 5] == cell["mutual_knn"].iloc[0]
    seeds = similarity[(similarity["language"] == "llama-xl") & (similarity["language_layer"] == 7)]
    seeds = seeds[seeds["vision_block"] == 5]["mutual_knn"]
    assert (cell["mutual_knn"].iloc[0], cell["seeds"].iloc[0]) == (seeds.mean(), 2)
    assert drawn.figure.axes[-1].get_ylabel() == "Mutual-KNN (chance 0.0098)"


def test_figure_5_draws_each_placement_and_rings_the_predicted_one(runs, similarity):
    drawn = figures.figure5(runs, similarity)
    axes, values = drawn.figure.axes[0], drawn.values
    assert len(values) == 15
    points = {line.get_label().partition(":")[0]: line.get_xydata() for line in axes.get_lines()}
    for position in ("early", "middle", "end"):
        rows = values[values["position"] == position]
        assert np.array_equal(points[position], rows[["similarity", "gain"]])
    best = values.loc[values["similarity"].idxmax()]
    assert points["highest similarity"].tolist() == [[best["similarity"], best["gain"]]]
    assert "Spearman ρ = " in axes.get_title()
    assert "n = 15" in axes.get_title()


def test_the_labels_of_figure_5_do_not_cover_each_other(runs, similarity):
    figure = figures.figure5(runs, similarity).figure
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == 15
    pairs = [(i, j) for i in range(15) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert pairs == []


def test_the_heat_map_of_table_3_shows_what_it_saves(runs):
    drawn = figures.table3_heatmap(runs)
    axes = drawn.figure.axes[0]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Early", "Middle", "End"]
    values = drawn.values.set_index(["position", "layer"])
    assert axes.get_images()[0].get_array()[2, 4] == values.loc[("end", 7), "mean"]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    assert texts[(4, 2)].startswith(f"{values.loc[('end', 7), 'mean']:.2f}\n±")


def test_negative_values_are_drawn(runs, gsnr):
    below = gsnr.assign(gsnr=gsnr["gsnr"].where(gsnr["variant"] == "vanilla", -1e-4))
    figures.figure3(below).figure.draw_without_rendering()
    figures.figure2(below).figure.draw_without_rendering()


def test_what_is_missing_or_too_much_is_an_error(gsnr, runs, similarity):
    with pytest.raises(ValueError, match="figure3: there must be a vanilla run, got none"):
        figures.figure3(gsnr[gsnr["variant"] == "insert"])
    with pytest.raises(ValueError, match="figure2: there must be runs of variant vanilla"):
        figures.figure2(gsnr.iloc[:0])
    with pytest.raises(ValueError, match="figure5: there must be similarity of llama-xl, vit-s"):
        figures.figure5(runs, similarity[similarity["language"] == "llama-s"])
    two = gsnr.assign(position=gsnr["position"].where(gsnr["position"] != "early", "end"))
    with pytest.raises(ValueError, match="figure3: all rows must have the same run, got "):
        figures.figure3(two)
