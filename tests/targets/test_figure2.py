"""Figure 2: means over seeds and each seed, of one data set; what is drawn of negative values."""

import numpy as np
import pandas as pd
import pytest

from rectify.analysis.collect import Results
from rectify.controls import CONTROLS, VARIANTS
from rectify.targets import figure2b
from rectify.targets.figure2 import Settings, figure
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="grid")


@pytest.fixture(scope="module")
def ends(demo: synthetic.Made) -> Results:
    """Return the vanilla run and those with the last layer at the end, two of them controls."""
    names = ("vanilla", "insert_llama-xl_layer-7_end", "insert-mlp_llama-xl_layer-7_end")
    folders = [f for f in demo.runs if f.name.removeprefix("glyphs_vit-s_") in names]
    return Results(folders[::-1], [0, 1])  # the vanilla run last


def test_it_draws_the_mean_over_seeds_and_each_seed(ends: Results) -> None:
    drawn = figure(ends, ASKED)
    values = drawn.values[drawn.values["estimator"] == "plain"]
    lines = {line.get_label(): line.get_ydata() for line in drawn.figure.axes[0].get_lines()}
    for label in ("ViT-64", "ViT-64 + LLaMA 8x128 layer 7, end"):
        means = values[values["label"] == label].groupby("epoch")["gsnr"].mean()
        assert np.array_equal(lines[label], means)
    assert len(drawn.figure.axes[0].get_lines()) == 3 * (2 + 1)
    blocks = ends.gsnr[(ends.gsnr["variant"] == "vanilla") & (ends.gsnr["estimator"] == "plain")]
    first = blocks[(blocks["seed"] == 0) & (blocks["epoch"] == 0)]["gsnr"].mean()
    ours = values[values["label"] == "ViT-64"].set_index(["seed", "epoch"])["gsnr"]
    assert ours[0, 0] == pytest.approx(first)
    assert set(drawn.values["estimator"]) == {"plain", "debiased", "xi", "unnormalised"}


def test_a_skip_is_in_the_legend_and_has_a_colour(ends: Results) -> None:
    frozen = (ends.gsnr["variant"] == "insert") & (ends.gsnr["control"] == "frozen")
    skipped = ends.gsnr[frozen].assign(variant="residual", run="skipped")
    both = results_of(gsnr=pd.concat([ends.gsnr, skipped]))
    handles, labels = figure(both, ASKED).figure.axes[0].get_legend_handles_labels()
    colours = dict(zip(labels, [handle.get_color() for handle in handles], strict=True))
    plain = "ViT-64 + LLaMA 8x128 layer 7, end"
    assert len(colours) == 4
    assert colours[plain] == VARIANTS["insert"].colour
    assert colours[f"{plain}, inserted with a skip"] == VARIANTS["residual"].colour


def test_the_legend_of_any_number_of_runs_is_below_the_panel_and_inside_the_figure(
    ends: Results,
) -> None:
    vanilla, frozen = (ends.gsnr[ends.gsnr["variant"] == name] for name in ("vanilla", "insert"))
    frozen = frozen[frozen["control"] == "frozen"]
    others = [
        frozen.assign(variant=variant, control=control, run=f"{variant}-{control}")
        for variant in ("insert", "residual") for control in list(CONTROLS)[:8]
    ]  # fmt: skip
    for runs in ([vanilla], [vanilla, *others]):
        drawn = figure(results_of(gsnr=pd.concat(runs)), ASKED).figure
        drawn.draw_without_rendering()  # a layout that does not fit is a warning, so an error
        (axes,), (legend,) = drawn.axes, drawn.legends
        box, panel = legend.get_window_extent(), axes.get_tightbbox()
        assert len(legend.get_texts()) == len(runs)
        assert 0 <= box.x0 < box.x1 <= drawn.bbox.width
        assert 0 <= box.y0 < box.y1 <= panel.y0
        assert axes.get_window_extent().height > drawn.dpi  # an inch


def test_over_the_loss_each_epoch_is_where_its_loss_is(ends: Results) -> None:
    drawn = figure2b.figure(ends, figure2b.Settings(reads="grid"))
    (axes,) = drawn.figure.axes
    values = drawn.values[drawn.values["estimator"] == "plain"]
    lines = {line.get_label(): line for line in axes.get_lines()}
    means = values[values["label"] == "ViT-64"].groupby("epoch")[["main_loss", "gsnr"]].mean()
    assert np.array_equal(lines["ViT-64"].get_xdata(), means["main_loss"])
    assert np.array_equal(lines["ViT-64"].get_ydata(), means["gsnr"])
    left, right = axes.get_xlim()
    assert left > right  # training goes to the right
    losses = ends.history[ends.history["metric"] == "main_loss"]
    first = losses[(losses["variant"] == "vanilla") & (losses["seed"] == 1)]
    ours = values[(values["label"] == "ViT-64") & (values["seed"] == 1)]
    assert ours["main_loss"].tolist() == first["value"].tolist()


def test_the_vanilla_run_comes_first_and_each_control_has_a_colour(ends: Results) -> None:
    axes = figure(ends, ASKED).figure.axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert labels[0] == "ViT-64"
    assert "ViT-64 + LLaMA 8x128 layer 7, end, MLP of the adapters' size" in labels
    assert len({handle.get_color() for handle in handles}) == 3


def test_the_shown_estimator_is_drawn(ends: Results) -> None:
    drawn = figure(Results(ends.folders, ends.seeds, estimator="debiased"), ASKED)
    axes = drawn.figure.axes[0]
    assert axes.get_ylabel() == "GSNR (debiased)"
    values = drawn.values
    shown = values[(values["estimator"] == "debiased") & (values["label"] == "ViT-64")]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert np.array_equal(lines["ViT-64"], shown.groupby("epoch")["gsnr"].mean())


def test_values_below_zero_are_inside_the_axes(ends: Results) -> None:
    below = ends.gsnr.assign(gsnr=ends.gsnr["gsnr"].where(ends.gsnr["variant"] == "vanilla", -1e-4))
    axes = figure(results_of(gsnr=below), ASKED).figure.axes[0]
    low, high = axes.get_ylim()
    assert low < -1e-4
    assert high > below["gsnr"].groupby(below["epoch"]).mean().max()


def test_without_runs_or_with_two_data_sets_it_is_an_error(ends: Results) -> None:
    with pytest.raises(ValueError, match="figure2: there must be runs of one data set, got none"):
        figure(Results(), ASKED)
    mixed = ends.gsnr.assign(data=ends.gsnr["data"].where(ends.gsnr["variant"] == "insert", "x"))
    with pytest.raises(ValueError, match="figure2: all runs must have the same data, got "):
        figure(results_of(gsnr=mixed), ASKED)
