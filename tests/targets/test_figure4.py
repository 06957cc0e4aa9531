"""Figure 4: the mean grid of each language model, in the order of its settings."""

from itertools import pairwise

import pandas as pd
import pytest

from rectify.analysis.collect import Results
from rectify.targets.figure4 import Settings, figure
from tests.helpers import synthetic

ASKED = Settings(vision="vit-s", languages=["llama-xl", "llama-untrained"])


@pytest.fixture(scope="module")
def similarity(demo: synthetic.Made) -> Results:
    files = [
        file for file in demo.similarity
        if file.name.startswith(("llama-xl--vit-s", "llama-untrained--vit-s"))
    ]  # fmt: skip
    return synthetic.compared(sorted(files))  # the untrained one first


def test_it_draws_the_mean_grid_and_names_the_chance_level(similarity: Results) -> None:
    drawn = figure(similarity, ASKED)
    image = drawn.figure.axes[0].get_images()[0].get_array()
    place = ["language", "language_layer", "vision_block"]
    cell = drawn.values.set_index(place).loc[("llama-xl", 7, 5)]
    assert image[7, 5] == cell["mutual_knn"]
    measured = similarity.similarity.set_index(place).sort_index().loc[("llama-xl", 7, 5)]
    assert (cell["mutual_knn"], cell["seeds"]) == (measured["mutual_knn"].mean(), 2)
    assert drawn.figure.axes[-1].get_ylabel() == "Mutual-KNN (chance 0.0098)"


def test_language_models_are_in_the_order_of_the_settings(similarity: Results) -> None:
    drawn = figure(similarity, ASKED).figure
    titles = [axes.get_title() for axes in drawn.axes[:2]]
    assert titles == ["LLaMA 8x128", "LLaMA 8x128 untrained"]
    assert drawn.get_suptitle() == "WIT-1024; n = 2 seeds"


def test_long_titles_of_panels_do_not_touch(similarity: Results) -> None:
    frame = similarity.similarity
    parts = [
        frame[frame["language"] == "llama-xl"].assign(language=name, language_title=title)
        for name, title in (("a", "A model with a long name"), ("b", "One more, quite as long"),
                            ("c", "And one that is named longer than all of the others"))
    ]  # fmt: skip
    asked = Settings(vision="vit-s", languages=["a", "b", "c"])
    drawn = figure(synthetic.results_of(similarity=pd.concat(parts)), asked).figure
    drawn.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in drawn.axes[:3]]
    assert not any(left.overlaps(right) for left, right in pairwise(boxes))
    assert drawn.axes[2].get_title().count("\n") == 1


@pytest.mark.parametrize(
    ("score", "label"),
    [("mutual_knn_calibrated", "calibrated Mutual-KNN"), ("cka", "CKA"), ("cknna", "CKNNA")],
)
def test_the_score_that_is_asked_for_is_drawn(similarity: Results, score: str, label: str) -> None:
    drawn = figure(similarity, ASKED.model_copy(update={"score": score}))
    rows = drawn.values[drawn.values["language"] == "llama-xl"]
    image = drawn.figure.axes[0].get_images()[0].get_array()
    assert image[7, 5] == rows.set_index(["language_layer", "vision_block"])[score][7, 5]
    assert drawn.figure.axes[-1].get_ylabel() == label


def test_the_embedding_is_drawn_below_the_first_layer(similarity: Results) -> None:
    frame = similarity.similarity
    below = frame.assign(language_layer=frame["language_layer"] - 1)
    axes = figure(synthetic.results_of(similarity=below), ASKED).figure.axes[0]
    image = axes.get_images()[0]
    assert image.get_extent() == [-0.5, 5.5, -1.5, 6.5]
    place = ["language", "language_layer", "vision_block"]
    first = frame.groupby(place)["mutual_knn"].mean()["llama-xl", 0]  # drawn as layer -1
    assert image.get_array()[0].tolist() == first.tolist()


def test_all_panels_have_one_scale(similarity: Results) -> None:
    drawn = figure(similarity, ASKED)
    limits = {axes.get_images()[0].get_clim() for axes in drawn.figure.axes[:2]}
    assert limits == {(drawn.values["mutual_knn"].min(), drawn.values["mutual_knn"].max())}


def test_similarity_of_two_vits_or_of_none_is_an_error(demo: synthetic.Made) -> None:
    files = [file for file in demo.similarity if file.name.startswith("llama-xl")]
    with pytest.raises(ValueError, match="figure4: all runs must have the same vision, got vit-t"):
        figure(synthetic.compared(files), ASKED)
    with pytest.raises(ValueError, match="figure4: there must be a similarity file, got none"):
        figure(Results(), ASKED)
