"""Figure 3 of Pang et al.: the kept maps of a few images, at their places."""

from types import SimpleNamespace

import numpy as np
import pytest

from rectify.analysis.collect import Maps
from rectify.targets.pang_figure3 import Settings, figure, needs
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="scenes")
COLUMNS = 7  # the image, F_E of vanilla, five places of the inserted run


@pytest.fixture(scope="module")
def maps(demo: synthetic.Made) -> list[Maps]:
    names = ("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl_layer-7_end")
    folders = [folder for folder in demo.runs if folder.name in names]
    return synthetic.maps_of(synthetic.Results(folders, [0, 1]).runs)


def pictures(axes) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for image in axes.get_images()]


def test_rows_are_images_and_activations_and_columns_places(maps: list[Maps]) -> None:
    drawn = figure(results_of(maps=maps), ASKED)
    axes = drawn.figure.axes
    assert len(axes) == COLUMNS * (3 * 2 + 3)
    titles = [panel.get_title() for panel in axes[:COLUMNS]]
    assert titles == ["", "vanilla\n$F_E$", *(f"inserted\n{symbol}" for symbol in
                      ("$F_E$", "$F_{L1}$", "$F_A$", "$F_F$", "$F_{L2}$"))]  # fmt: skip
    assert [axes[COLUMNS * row].get_ylabel() for row in range(3)] == [
        "magnitude", "frequency", "magnitude",
    ]  # fmt: skip
    vanilla, inserted = maps
    (shown,) = pictures(axes[COLUMNS * 3 + 1])  # second image, frequency
    assert np.array_equal(shown, vanilla.arrays["map/F_E/frequency"][1])
    (shown,) = pictures(axes[COLUMNS * 4 + 6])  # third image, magnitude
    assert np.array_equal(shown, inserted.arrays["map/F_L2/magnitude"][2])


def test_the_image_has_the_outline_of_its_mask(maps: list[Maps]) -> None:
    first = figure(results_of(maps=maps), ASKED).figure.axes[COLUMNS * 2]  # second image
    (shown,) = pictures(first)
    assert np.array_equal(shown, maps[0].arrays["image"][1, 0])
    (outline,) = first.collections
    points = np.concatenate([path.vertices for path in outline.get_paths()])
    assert points.min(0).tolist() == [3.5, 3.5]  # half a pixel around columns 4..11, rows 4..7
    assert points.max(0).tolist() == [11.5, 7.5]


def test_the_last_rows_are_attention_summed_and_by_head(maps: list[Maps]) -> None:
    axes = figure(results_of(maps=maps), ASKED).figure.axes[COLUMNS * 6 :]
    titles = [panel.get_title() for panel in axes if panel.get_title()]
    assert titles == [
        "vanilla\nblock 5: sum", "head 0", "head 1",
        "inserted\nblock 5: sum", "head 0", "head 1",
        "inserted\nlayer: sum", "head 0", "head 1",
    ]  # fmt: skip
    (shown,) = pictures(axes[3])
    assert np.array_equal(shown, maps[0].arrays["heads/block-5"][0, 1])


def test_the_values_are_the_drawn_maps_token_by_token(maps: list[Maps]) -> None:
    values = figure(results_of(maps=maps), ASKED).values
    assert len(values) == 16 * (3 * 2 * 6 + 3 * 3)
    rows = values[(values["item"] == 1) & (values["place"] == "F_L1")]
    rows = rows[rows["activation"] == "frequency"]
    grid = rows.pivot(index="row", columns="column", values="value").to_numpy()
    assert np.allclose(grid, maps[1].arrays["map/F_L1/frequency"][1])


def run(variant: str, control: str = "frozen", **more: str) -> SimpleNamespace:
    usual = {"layer": 7, "position": "end", "data": "d", "vision": "v"}
    return SimpleNamespace(variant=variant, control=control, **{**usual, **more})


def test_it_needs_one_frozen_layer_and_the_vanilla_run_of_its_vit() -> None:
    vanilla, other = run("vanilla"), run("vanilla", vision="w")
    small, large, random = run("insert"), run("insert", layer=9), run("insert", "random")
    assert needs(ASKED, [vanilla, small, large, random, other]) == [vanilla, large]


def test_nothing_to_draw_is_one_line() -> None:
    with pytest.raises(ValueError, match="pang_figure3: there must be runs on a set with masks"):
        figure(results_of(maps=[]), ASKED)
