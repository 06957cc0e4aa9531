"""Figure 3 of Pang et al.: the kept maps of a few images, at their places."""

from types import SimpleNamespace

import numpy as np
import pytest

from rectify.analysis import clouds
from rectify.analysis.collect import Maps
from rectify.targets.pang_figure3 import Settings, figure, needs
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

RUNS = Settings(reads="scans", columns="runs", up="y")
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


@pytest.mark.slow
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


def test_with_a_column_for_each_run_it_needs_all_of_the_last_set_and_trunk() -> None:
    vanilla, inserted, random = run("vanilla"), run("insert"), run("insert", "random")
    second, other = run("auxiliary"), run("insert", data="e")
    assert needs(RUNS, [other, vanilla, inserted, random, second]) == [
        vanilla, inserted, random, second,
    ]  # fmt: skip


POINTS, GROUPS = 40, 5


@pytest.fixture(scope="module")
def scans(maps: list[Maps]) -> list[Maps]:
    """Clouds of two runs, each with its groups' activations."""
    made = []
    for kept in maps:
        rng = np.random.default_rng(2)
        arrays = {
            "items": np.array([3, 1, 4, 5]),
            "points": rng.standard_normal((4, POINTS, 3)).astype(np.float32),
            "mask": rng.integers(0, 2, (4, POINTS), dtype=np.uint8),
            "nearest": rng.integers(0, GROUPS, (4, POINTS)),
        }
        rng = np.random.default_rng(len(kept.run["run"]))
        names = [name for name in kept.arrays if name.startswith("map/")]
        arrays |= {name: rng.random((4, GROUPS, 1), dtype=np.float32) for name in names}
        heads = [name for name in kept.arrays if name.startswith("heads/")]
        arrays |= {name: rng.random((4, 2, GROUPS, 1), dtype=np.float32) for name in heads}
        made.append(Maps(kept.run, arrays))
    return made


def drawn_points(axes) -> tuple[np.ndarray, np.ndarray]:
    """Return places (points, 2) and values, or colours, of what a panel scatters."""
    (dots,) = axes.collections
    values = dots.get_array()
    return np.asarray(dots.get_offsets()), dots.get_facecolors() if values is None else values


def test_a_point_has_the_value_of_its_nearest_group_in_a_column_for_each_run(scans) -> None:
    drawn = figure(results_of(maps=scans), RUNS)
    axes = drawn.figure.axes
    assert len(axes) == 3 * 3  # three clouds; the object, two runs
    assert [panel.get_title() for panel in axes[:3]] == ["", "vanilla", "inserted"]
    for row, column, place in ((0, 1, "F_E"), (2, 2, "F_L2")):
        arrays = scans[column - 1].arrays
        found = {tuple(place): value for place, value in zip(*drawn_points(axes[3 * row + column]),
                                                             strict=True)}  # fmt: skip
        right, height, _ = clouds.seen(arrays["points"][row], "y").T
        for point in range(POINTS):
            group = arrays["nearest"][row, point]
            expected = arrays[f"map/{place}/magnitude"][row, group, 0]
            assert found[right[point], height[point]] == pytest.approx(expected)
    _, colours = drawn_points(axes[3])
    assert len(np.unique(colours, axis=0)) == 2
    mask = scans[0].arrays["mask"][1]
    assert (colours == colours[0]).all(1).sum() in (mask.sum(), POINTS - mask.sum())
    values = drawn.values
    assert len(values) == 3 * 2 * GROUPS
    assert set(zip(values["run"], values["place"], strict=True)) == {
        (scans[0].run["run"], "F_E"), (scans[1].run["run"], "F_L2"),
    }  # fmt: skip


def test_places_and_attention_of_clouds_are_drawn_too(scans) -> None:
    axes = figure(results_of(maps=scans), ASKED).figure.axes
    assert len(axes) == COLUMNS * (3 * 2 + 3)
    _, values = drawn_points(axes[COLUMNS * 6 + 2])
    arrays = scans[0].arrays
    expected = arrays["heads/block-5"][0, 0, arrays["nearest"][0], 0]
    assert sorted(values) == pytest.approx(sorted(expected))


def test_nothing_to_draw_is_one_line() -> None:
    with pytest.raises(ValueError, match="pang_figure3: there must be runs on a set with masks"):
        figure(results_of(maps=[]), ASKED)
