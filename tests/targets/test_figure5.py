"""Figure 5: each placement once, the predicted one ringed, labels that can be read."""

import itertools

import numpy as np
import pytest

from rectify.analysis.collect import Results
from rectify.analysis.statistics import format_p, rank_correlation, stratified_correlation
from rectify.results.declared import SCORES_OF_LAYERS
from rectify.targets.figure5 import Settings, figure
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="grid")


@pytest.fixture(scope="module")
def grid(demo: synthetic.Made) -> Results:
    """Return the grid with its vanilla run, controls at one place, and all similarities."""
    folders = [
        folder for folder in demo.runs
        if folder.name.startswith(("glyphs_vit-s_vanilla", "glyphs_vit-s_insert"))
        and "opt" not in folder.name
    ]  # fmt: skip
    assert any("insert-mlp" in folder.name for folder in folders)
    return synthetic.compared(demo.similarity, folders)


@pytest.mark.slow
def test_it_draws_each_placement_and_rings_the_predicted_one(grid: Results) -> None:
    drawn = figure(grid, ASKED)
    axes, values = drawn.figure.axes[0], drawn.values
    assert len(values) == 15  # controls are no placements
    points = {line.get_label().partition(":")[0]: line.get_xydata() for line in axes.get_lines()}
    for position in ("early", "middle", "end"):
        rows = values[values["position"] == position]
        assert np.array_equal(points[position], rows[["similarity", "gain"]])
    best = values.loc[values["similarity"].idxmax()]
    assert points["highest similarity"].tolist() == [[best["similarity"], best["gain"]]]
    _, overall, within = axes.get_title().split("\n")
    rho, p, _ = rank_correlation(values["similarity"], values["gain"])
    assert overall == f"Spearman ρ = {rho:.2f}, {format_p(p)}, n = 15"
    rho, p, _ = stratified_correlation(values["similarity"], values["gain"], values["position"])
    assert within == f"within positions: ρ = {rho:.2f}, {format_p(p)}"
    assert axes.get_ylabel() == "gain in acc@1 (points)"


def test_numbers_below_the_axis_do_not_touch(grid: Results) -> None:
    frame = grid.similarity.copy()
    score = frame["mutual_knn"].rank(pct=True)
    frame["mutual_knn"] = 0.0387 + 0.0186 * score  # needs four decimals
    drawn = figure(results_of(runs=grid.runs, similarity=frame), ASKED).figure
    drawn.draw_without_rendering()
    axes = drawn.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    low, high = axes.get_xlim()
    shown = [box for at, box in zip(axes.get_xticks(), boxes, strict=True) if low <= at <= high]
    assert len(shown) > 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(shown))


def test_the_title_is_not_cut(grid: Results) -> None:
    drawn = figure(grid, ASKED).figure
    drawn.draw_without_rendering()
    title, whole = drawn.axes[0].title.get_window_extent(), drawn.bbox
    assert (whole.x0 <= title.x0, title.x1 <= whole.x1) == (True, True)


def test_a_gain_that_only_positions_explain_is_none_within_them(grid: Results) -> None:
    runs = grid.runs.copy()
    places = {"early": 0.0, "middle": 0.1, "end": 0.2}
    runs["accuracy"] = runs["position"].map(places).fillna(0.3) + 0.01 * (runs["layer"] % 3 == 0)
    frame = grid.similarity.copy()
    frame["mutual_knn"] = frame["vision_block"] / 10 - frame["language_layer"] / 1000
    title = figure(results_of(runs=runs, similarity=frame), ASKED).figure.axes[0].get_title()
    overall, within = (line.partition("ρ = ")[2] for line in title.split("\n")[1:])
    assert float(overall.partition(",")[0]) > 0.8
    assert abs(float(within.partition(",")[0])) < 0.6


@pytest.mark.parametrize("score", ["mutual_knn_calibrated", "cka", "cknna"])
def test_placements_are_compared_by_the_score_that_is_asked_for(grid: Results, score: str) -> None:
    drawn = figure(grid, Settings(reads="grid", score=score))
    same = grid.similarity.query("vision == 'vit-s' and language == 'llama-xl'")
    means = same.groupby(["language_layer", "vision_block"])[score].mean()
    row = drawn.values.set_index(["layer", "position"]).loc[(3, "middle")]
    assert row["similarity"] == pytest.approx((means[3, 2] + means[3, 3]) / 2)
    assert SCORES_OF_LAYERS[score] in drawn.figure.axes[0].get_xlabel()


def test_a_gain_is_the_mean_over_seeds_of_paired_differences(grid: Results) -> None:
    runs = grid.runs.set_index(["run", "seed"])["accuracy"]
    name = "glyphs_vit-s_insert_llama-xl_layer-3_middle"
    gains = [100 * (runs[name, seed] - runs["glyphs_vit-s_vanilla", seed]) for seed in (0, 1)]
    row = figure(grid, ASKED).values.set_index(["layer", "position"]).loc[(3, "middle")]
    assert row["gain"] == pytest.approx(sum(gains) / 2)
    assert (row["least"], row["most"]) == pytest.approx((min(gains), max(gains)))


def test_the_labels_do_not_cover_each_other(grid: Results) -> None:
    drawn = figure(grid, ASKED).figure
    drawn.draw_without_rendering()
    boxes = [text.get_window_extent() for text in drawn.axes[0].texts]
    assert len(boxes) == 15
    pairs = [(i, j) for i in range(15) for j in range(i) if boxes[i].overlaps(boxes[j])]
    assert pairs == []


def test_positions_by_number_have_a_look_of_their_own(grid: Results) -> None:
    runs = grid.runs.copy()
    runs.loc[runs["position"] == "middle", "position"] = "3"
    axes = figure(results_of(runs=runs, similarity=grid.similarity), ASKED).figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert [label.partition(":")[0] for label in labels[:3]] == ["early", "3", "end"]
    assert len({(handle.get_color(), handle.get_marker()) for handle in handles[:3]}) == 3


def test_without_the_similarity_of_its_models_it_is_an_error(grid: Results) -> None:
    other = grid.similarity[grid.similarity["language"] == "llama-s"]
    with pytest.raises(ValueError, match="figure5: there must be similarity of llama-xl, vit-s"):
        figure(results_of(runs=grid.runs, similarity=other), ASKED)


@pytest.mark.slow
def test_two_language_models_are_an_error(demo: synthetic.Made, grid: Results) -> None:
    folders = [f for f in demo.runs if f.name.startswith("glyphs_vit-s_insert_opt")]
    mixed = synthetic.compared(demo.similarity, [*grid.folders, *folders])
    with pytest.raises(ValueError, match="figure5: all runs must have the same language, got "):
        figure(mixed, ASKED)
