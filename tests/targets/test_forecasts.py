"""Forecasts of a few scenes: which lines are drawn, where, and how opaque."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.axes import Axes
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.drawing import Drawn
from rectify.analysis.scenes import Scenes
from rectify.controls import VARIANTS
from rectify.targets.forecasts import FAINT, LEAST, Settings, check, figure, needs
from rectify.typed import parse
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="traffic")
NAMES = ("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl_layer-7_end",
         "glyphs_vit-s_auxiliary_llama-xl_layer-7_end_lambda-0.35")  # fmt: skip


@pytest.fixture(scope="module")
def results(demo: synthetic.Made, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folders = [folder for name in NAMES for folder in demo.runs if folder.name == name]
    runs = synthetic.Results(folders, [0, 1]).runs
    return results_of(runs=runs, **synthetic.traffic(tmp_path_factory.mktemp("traffic")))


@pytest.fixture(scope="module")
def scenes(results: Results) -> Scenes:
    return Scenes(results.prepared("glyphs"))


@pytest.fixture(scope="module")
def drawn(results: Results) -> Drawn:
    return figure(results, Settings(reads="traffic", items=(6, 0)))


def lines(axes: Axes, kind: str) -> list[np.ndarray]:
    """Points of the lines of a kind, ahead and to the left."""
    return [
        np.stack([line.get_ydata(), -line.get_xdata()], 1)
        for line in axes.get_lines()
        if line.get_label() == kind
    ]


def test_a_column_is_a_scene_and_a_row_a_run(drawn: Drawn) -> None:
    axes = drawn.figure.axes
    assert [one.get_title() for one in axes] == ["scene 6", "scene 0", *[""] * 4]
    labels = [one.get_ylabel() for one in axes]
    assert labels == ["vanilla", "", "inserted", "", "auxiliary path", ""]


def test_a_panel_has_the_scene_the_truth_and_six_forecasts(
    drawn: Drawn, scenes: Scenes, results: Results
) -> None:
    for number, axes in enumerate(drawn.figure.axes):
        item, name = (6, 0)[number % 2], NAMES[number // 2]
        tracks, lanes = scenes[item]
        (low, high), (right, left) = axes.get_ylim(), (-edge for edge in axes.get_xlim()[::-1])
        assert high - low == pytest.approx(left - right)
        assert high - low >= 2 * LEAST

        def inside(points, low=low, high=high, right=right, left=left):
            ahead, side = points[..., 0], points[..., 1]
            return (low <= ahead) & (ahead <= high) & (right <= side) & (side <= left)

        around = [lane for lane in lanes if inside(lane).any()]
        assert np.array_equal(lines(axes, "lane"), around)
        past = [track[:20] for track in tracks if inside(track[19])]
        assert np.array_equal(lines(axes, "observed")[::-1], past, equal_nan=True)
        (truth,) = lines(axes, "truth")
        assert np.array_equal(truth, tracks[0, 19:])
        found = results.forecasts(name, 0)
        ways = lines(axes, "forecast")
        assert len(ways) == 6
        for way, own in zip(ways[::-1], found.trajectories[item], strict=True):
            assert np.array_equal(way[1:], own)
            assert np.allclose(way[0], 0, atol=1e-6)  # where the scored agent is
        likely = found.probabilities[item] > FAINT * found.probabilities[item].max()
        assert 1 < likely.sum() < 6  # the others may lie outside
        assert all(inside(way).all() for way in [*found.trajectories[item][likely], tracks[0]])


def test_the_more_likely_the_more_opaque_in_the_colour_of_the_run(
    drawn: Drawn, results: Results
) -> None:
    for number, variant in enumerate(("vanilla", "insert", "auxiliary")):
        axes = drawn.figure.axes[2 * number]
        found = [line for line in axes.get_lines() if line.get_label() == "forecast"]
        assert {line.get_color() for line in found} == {VARIANTS[variant].colour}
        shares = results.forecasts(NAMES[number], 0).probabilities[6]
        opacity = [line.get_alpha() for line in found][::-1]
        assert opacity == pytest.approx(shares / shares[0])
        assert opacity == sorted(opacity, reverse=True)
        assert opacity[0] == 1


def test_the_first_panel_of_a_scene_says_how_long_ten_metres_are(drawn: Drawn) -> None:
    for number, axes in enumerate(drawn.figure.axes):
        bars = lines(axes, "scale")
        assert len(bars) == (number < 2)
        for (start, end), text in zip(bars, axes.texts, strict=True):
            assert np.abs(end - start) == pytest.approx([0, 10])
            assert text.get_text() == "10 m"


def test_the_values_are_the_points_that_are_drawn_each_once(drawn: Drawn, scenes: Scenes) -> None:
    values = drawn.values
    kinds = values[values["item"] == 0].groupby("line").size()
    axes = drawn.figure.axes[1]
    seen = np.concatenate(lines(axes, "observed"))
    assert kinds["observed"] == (~np.isnan(seen[:, 0])).sum() < len(seen)  # some came late
    assert kinds["lane"] == 10 * len(lines(axes, "lane"))
    assert (kinds["truth"], kinds["forecast"]) == (31, 3 * 6 * 31)
    row = values[(values["item"] == 0) & (values["line"] == "truth") & (values["point"] == 30)]
    assert row[["ahead", "left"]].to_numpy()[0] == pytest.approx(scenes[0].tracks[0, -1])
    shares = values.query("line == 'forecast' and point == 0 and item == 6")
    assert shares.groupby("run")["probability"].sum().to_list() == pytest.approx([1, 1, 1])
    assert set(values.loc[values["line"] != "forecast", "run"]) == {"-"}


def test_scenes_are_chosen_from_easy_to_hard(results: Results, scenes: Scenes) -> None:
    titles = [axes.get_title() for axes in figure(results, ASKED).figure.axes[:4]]
    order = scenes.from_easy_to_hard(20)
    count = len(scenes)
    places = [int((2 * n + 1) * count / 8) for n in range(4)]
    assert titles == [f"scene {order[place]}" for place in places]


def test_a_scene_that_is_not_there_is_one_line(results: Results) -> None:
    with pytest.raises(ValueError, match=r"items must be below 9, .* got 9"):
        figure(results, Settings(reads="traffic", items=(1, 9)))


def test_scenes_are_named_as_a_configuration_does() -> None:
    given = json.dumps({"reads": ["traffic"], "items": [17, 4]})
    assert parse(Settings, json.loads(given), "targets.forecasts").items == (17, 4)
    with pytest.raises(ValueError, match=r"targets\.forecasts\.items"):
        parse(Settings, {"reads": ["traffic"], "items": [-1]}, "targets.forecasts")


def test_nothing_to_draw_is_one_line() -> None:
    empty = DataFrame(columns=["run", "seed"])
    with pytest.raises(ValueError, match="forecasts: there must be runs on a set of traffic"):
        figure(results_of(runs=empty), ASKED)


def run(variant: str, control: str = "frozen", **more: str) -> SimpleNamespace:
    usual = {"layer": 7, "position": "end", "data": "d", "vision": "v"}
    return SimpleNamespace(variant=variant, control=control, **{**usual, **more})


def test_it_needs_the_last_run_of_each_variant_on_one_set() -> None:
    vanilla, other = run("vanilla"), run("vanilla", vision="w")
    small, large, random = run("insert"), run("insert", layer=9), run("insert", "random")
    second = run("auxiliary")
    runs = [other, small, vanilla, large, random, second]
    assert needs(ASKED, runs) == [vanilla, large, second]
    assert needs(ASKED, [vanilla]) == [vanilla]


def test_another_task_is_refused() -> None:
    sets = {"lanes": SimpleNamespace(task="motion_forecasting"),
            "glyphs": SimpleNamespace(task="image_classification")}  # fmt: skip
    config = SimpleNamespace(
        data=sets,
        experiments={"traffic": SimpleNamespace(data=("lanes",))},
        visions={},
        languages={},
    )
    check(ASKED, config, "targets.forecasts")
    config.experiments["traffic"] = SimpleNamespace(data=("lanes", "glyphs"))
    with pytest.raises(ValueError, match="traffic must be of task motion_forecasting, got glyphs"):
        check(ASKED, config, "targets.forecasts")


def test_files_of_a_run_are_read_by_its_name_and_seed(demo: synthetic.Made, tmp_path: Path) -> None:
    """Scores leave the answers out, and the other way round."""
    results = synthetic.Results(demo.runs, [0, 1])
    with pytest.raises(ValueError, match=r"seed-1/predictions\.parquet: must have trajectories"):
        results.forecasts(NAMES[0], 1)
    assert list(results.items(NAMES[0], 1)) == ["item", "accuracy@5", "accuracy@1", "loss"]
    with pytest.raises(ValueError, match="safetensors file with split test"):
        Scenes(Results(sets=[tmp_path / "lanes"]).prepared("lanes"))
