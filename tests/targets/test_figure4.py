"""Figure 4: the mean grid of each language model, in the order of its settings."""

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
    titles = [axes.get_title() for axes in figure(similarity, ASKED).figure.axes[:2]]
    assert titles == ["LLaMA 8x128, n = 2 seeds", "LLaMA 8x128 untrained, n = 2 seeds"]


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
