"""Figure 4 of Pang et al.: bars of each run at each place, and the floors as lines."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas import DataFrame

from rectify.controls import CONTROLS, VARIANTS
from rectify.targets.pang_figure4 import Settings, check, figure
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="scenes")


@pytest.fixture(scope="module")
def filtering(demo: synthetic.Made) -> DataFrame:
    runs = synthetic.Results(demo.runs, [0, 1]).runs
    glyphs = runs[(runs["data"] == "glyphs") & (runs["vision"] == "vit-s")]
    at_end = glyphs["layer"].isna() | ((glyphs["layer"] == 7) & (glyphs["position"] == "end"))
    is_llama = glyphs["language"].isin([None, "llama-xl"])
    chosen = glyphs[at_end & is_llama & glyphs["control"].isin([None, "frozen", "random"])]
    return synthetic.filtering_of(chosen[chosen["variant"] != "auxiliary"])


@pytest.fixture(scope="module")
def drawn(filtering: DataFrame) -> Figure:
    return figure(results_of(filtering=filtering), ASKED).figure


def bars(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def floors(axes) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_marker() == "None"]


@pytest.mark.slow
def test_a_bar_is_the_mean_over_seeds_of_one_run_at_one_place(
    filtering: DataFrame, drawn: Figure
) -> None:
    magnitude = drawn.axes[0]
    rows = filtering[filtering["activation"] == "magnitude"]
    means = rows.groupby(["place", "run"], sort=False)["iou"].mean()
    places = ["F_E", "F_L1", "F_A", "F_F", "F_L2"]
    expected = [value for place in places for value in means[place]]
    assert bars(magnitude) == pytest.approx(expected)
    assert [len(means[place]) for place in places] == [3, 2, 2, 2, 2]  # vanilla has one
    labels = [label.get_text().partition("\n")[0] for label in magnitude.get_xticklabels()]
    assert labels == ["$F_E$", "$F_{L1}$", "$F_A$", "$F_F$", "$F_{L2}$"]


def test_attention_is_that_of_the_vit_and_of_the_layer(drawn: Figure) -> None:
    attention = drawn.axes[2]
    labels = [label.get_text() for label in attention.get_xticklabels()]
    assert labels == ["last block\nof the trunk", "layer of the\nlanguage model"]
    assert len(bars(attention)) == 3 + 2


def test_the_floors_of_the_set_are_lines_with_names(drawn: Figure) -> None:
    for axes in drawn.axes:
        heights = [line.get_ydata()[0] for line in floors(axes) if list(line.get_xdata()) == [0, 1]]
        assert sorted(heights) == pytest.approx(sorted(synthetic.FLOORS[1:]))
    (legend,) = drawn.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert {"all tokens", "its tokens permuted", "pixels, or points", "one seed"} <= set(texts)
    assert {"vanilla", "inserted", CONTROLS["random"].title} <= set(texts)
    assert legend.get_title().get_text() == "n = 2 seeds"


def test_each_bar_has_the_floor_of_its_own_maps(filtering: DataFrame) -> None:
    """A single line would be above some maps that beat their own, and below others that do not."""
    permuted = 0.1 + 0.001 * np.arange(len(filtering))
    drawn = figure(results_of(filtering=filtering.assign(iou_permuted=permuted)), ASKED).figure
    magnitude = drawn.axes[0]
    rows = filtering.assign(iou_permuted=permuted)[filtering["activation"] == "magnitude"]
    means = rows.groupby(["place", "run"], sort=False)["iou_permuted"].mean()
    expected = [value for place in ("F_E", "F_L1", "F_A", "F_F", "F_L2") for value in means[place]]
    own = [line for line in floors(magnitude) if list(line.get_xdata()) != [0, 1]]
    assert [line.get_ydata().tolist() for line in own] == [[value, value] for value in expected]
    for line, bar in zip(own, magnitude.patches, strict=True):
        assert line.get_xdata().mean() == pytest.approx(bar.get_x() + bar.get_width() / 2)


def test_a_run_has_the_colour_of_its_variant_or_control(drawn: Figure) -> None:
    magnitude = drawn.axes[0]
    colours = [bar.get_facecolor() for bar in magnitude.patches[:3]]
    expected = {VARIANTS["vanilla"].colour, VARIANTS["insert"].colour, CONTROLS["random"].colour}
    assert set(colours) == {to_rgba(colour) for colour in expected}


def test_several_sets_and_vits_have_rows_of_their_own(filtering: DataFrame) -> None:
    other = filtering.assign(vision="vit-b", vision_title="ViT-96", run=filtering["run"] + "b")
    drawn = figure(results_of(filtering=pd.concat([filtering, other], ignore_index=True)), ASKED)
    assert len(drawn.figure.axes) == 6
    assert len(bars(drawn.figure.axes[3])) == len(bars(drawn.figure.axes[0]))
    assert "ViT-96" in drawn.figure.axes[3].get_ylabel()


def test_runs_of_the_same_kind_are_told_apart_by_their_language_model(filtering: DataFrame) -> None:
    rows = filtering[filtering["control"] == "frozen"]
    other = rows.assign(language="opt", language_title="OPT", run=rows["run"] + "o")
    drawn = figure(results_of(filtering=pd.concat([filtering, other], ignore_index=True)), ASKED)
    texts = [text.get_text() for text in drawn.figure.legends[0].get_texts()]
    assert {"inserted, LLaMA 8x128", "inserted, OPT"} <= set(texts)
    faces = [bar.get_facecolor() for bar in drawn.figure.axes[0].patches[:4]]
    assert len(set(faces)) == 4


def test_nothing_to_draw_is_one_line(filtering: DataFrame) -> None:
    with pytest.raises(ValueError, match="pang_figure4: there must be runs on a set with masks"):
        figure(results_of(filtering=filtering[:0]), ASKED)


def test_a_set_without_masks_is_one_line_before_any_job() -> None:
    experiment = SimpleNamespace(
        data=("a",), vision=("v",), variant=("vanilla",), control=None, language=None, layer=None,
        position=None, weights=None,
    )  # fmt: skip
    sets = {"a": SimpleNamespace(task="image_classification", has_masks=False)}
    config = SimpleNamespace(
        experiments={"scenes": experiment}, data=sets, visions={}, languages={}
    )
    with pytest.raises(ValueError, match=r"t\.reads: the sets of scenes must have masks, got a w"):
        check(ASKED, config, "t")
    sets["a"].has_masks = True
    check(ASKED, config, "t")


def test_long_names_beside_a_row_stay_within_its_height(filtering: DataFrame) -> None:
    named = filtering.assign(vision_title="Point-BERT-64", data_title="Solids, hardest")
    drawn = figure(results_of(filtering=named), ASKED).figure
    drawn.draw_without_rendering()
    label = drawn.axes[0].yaxis.label.get_window_extent()
    assert drawn.bbox.y0 <= label.y0
    assert label.y1 <= drawn.bbox.y1
