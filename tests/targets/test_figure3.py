"""Figure 3: paired differences, one panel for each position, and where the block is."""

import pytest

from rectify.analysis.collect import Results
from rectify.targets.figure3 import Settings, figure
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="grid")


@pytest.fixture(scope="module")
def last(demo: synthetic.Made) -> Results:
    """Return the vanilla run and those with the last layer."""
    names = ("vanilla", *(f"insert_llama-xl_layer-7_{p}" for p in ("early", "middle", "end")))
    folders = [f for f in demo.runs if f.name.removeprefix("glyphs_vit-s_") in names]
    return Results(folders, [0, 1], estimator="debiased")


def test_it_draws_the_paired_difference_and_marks_the_block(last: Results) -> None:
    drawn = figure(last, ASKED)
    assert [axes.get_title() for axes in drawn.figure.axes] == [
        "early: after 0 blocks", "middle: after 3 blocks", "end: after 6 blocks",
    ]  # fmt: skip
    end = drawn.values[drawn.values["position"] == "end"]
    end = end[end["estimator"] == "debiased"]
    bars = [bar.get_height() for bar in drawn.figure.axes[2].patches]
    means = end.groupby("block")[["difference", "at_equal_loss"]].mean()
    assert bars == pytest.approx([*means["difference"], *means["at_equal_loss"]])
    marks = [line.get_xdata()[0] for line in drawn.figure.axes[2].get_lines()[-1:]]
    assert marks == [5.5]
    assert (end["difference"] == end["gsnr"] - end["vanilla"]).all()


def test_a_difference_is_that_of_means_over_epochs_of_one_seed(last: Results) -> None:
    values = figure(last, ASKED).values.set_index(["position", "seed", "block", "estimator"])
    rows = last.gsnr[(last.gsnr["seed"] == 1) & (last.gsnr["block"] == 2)]
    rows = rows[rows["estimator"] == "plain"]
    ours, theirs = (
        rows[(rows["position"] == "middle") if inserted else rows["position"].isna()]["gsnr"]
        for inserted in (True, False)
    )
    by_hand = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    assert values["difference"]["middle", 1, 2, "plain"] == pytest.approx(by_hand)


def test_at_equal_loss_a_gain_is_over_vanilla_at_the_loss_of_each_epoch(last: Results) -> None:
    """Here the run has the losses of vanilla's next epoch, so it is compared with that."""
    gsnr = last.gsnr.copy()
    gsnr.loc[gsnr["variant"] == "insert", "main_loss"] -= 1  # losses fall by 1 an epoch
    values = figure(results_of(gsnr=gsnr), ASKED).values
    keys = ["seed", "block", "estimator", "epoch"]
    vanilla = gsnr[gsnr["variant"] == "vanilla"].set_index(keys)["gsnr"]
    ours = gsnr[gsnr["position"] == "end"].set_index(keys)["gsnr"]
    end = values[values["position"] == "end"].set_index(["seed", "block", "estimator"])
    assert set(end["epochs"]) == {5}
    expected = [ours[1, 2, "xi", n] - vanilla[1, 2, "xi", n + 1] for n in range(5)]
    assert end["at_equal_loss"][1, 2, "xi"] == pytest.approx(sum(expected) / 5)


def test_panels_are_in_the_order_of_the_positions(last: Results) -> None:
    gsnr = last.gsnr.copy()
    gsnr.loc[gsnr["position"] == "middle", ["position", "insert_at"]] = ["1", 1.0]
    titles = [axes.get_title() for axes in figure(results_of(gsnr=gsnr), ASKED).figure.axes]
    assert titles == ["early: after 0 blocks", "1: after 1 block", "end: after 6 blocks"]


def test_bars_below_zero_are_drawn_below_zero(last: Results) -> None:
    below = last.gsnr.assign(gsnr=last.gsnr["gsnr"].where(last.gsnr["variant"] == "vanilla", -1e-4))
    drawn = figure(results_of(gsnr=below), ASKED)
    heights = [bar.get_height() for axes in drawn.figure.axes for bar in axes.patches]
    assert len(heights) == 3 * 2 * 6
    assert max(heights) < 0
    low, _ = drawn.figure.axes[0].get_ylim()
    assert low < min(heights)


def test_what_is_missing_or_too_much_is_an_error(last: Results) -> None:
    gsnr = last.gsnr
    with pytest.raises(ValueError, match="figure3: there must be a vanilla run, got none"):
        figure(results_of(gsnr=gsnr[gsnr["variant"] == "insert"]), ASKED)
    with pytest.raises(ValueError, match="figure3: there must be runs of variant insert, got none"):
        figure(results_of(gsnr=gsnr[gsnr["variant"] == "vanilla"]), ASKED)
    mixed = gsnr.assign(variant=gsnr["variant"].where(gsnr["position"] != "early", "residual"))
    with pytest.raises(ValueError, match="figure3: all runs must have the same variant, got "):
        figure(results_of(gsnr=mixed), ASKED)
    two = gsnr.assign(position=gsnr["position"].where(gsnr["position"] != "early", "end"))
    with pytest.raises(ValueError, match="figure3: all runs must have the same run, got "):
        figure(results_of(gsnr=two), ASKED)
