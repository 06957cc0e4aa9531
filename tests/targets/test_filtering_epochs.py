"""Activations against masks over epochs: each curve is what the result files say."""

from types import SimpleNamespace

import numpy as np
import pytest
from pandas import DataFrame, Series

from rectify.analysis.collect import Results
from rectify.filtering.settings import FilteringSection
from rectify.targets.filtering_epochs import GSNR, LAST, OUTPUT, Settings, check, figure, findings
from tests.helpers import synthetic
from tests.helpers.synthetic import results_of

ASKED = Settings(reads="scenes")
COMMON = ("all tokens", "pixels, or points")
SHOWN = ("glyphs_vit-s_vanilla", "glyphs_vit-s_insert_llama-xl_layer-7_end")


@pytest.fixture(scope="module")
def results(demo: synthetic.Made) -> Results:
    found = synthetic.Results(demo.runs, [0, 1])
    gsnr, history = (frame[frame["run"].isin(SHOWN)] for frame in (found.gsnr, found.history))
    runs = found.runs[found.runs["run"].isin(SHOWN)]
    return results_of(
        gsnr=gsnr, history=synthetic.outlined(history), filtering=synthetic.filtering_of(runs)
    )


def iou(results: Results, places: dict[str, str]) -> Series:
    history = results.history
    metric = history["variant"].map(places).map("iou/{}/magnitude".format)
    chosen = history[history["metric"] == metric]
    return chosen.groupby(["run", "epoch"])["value"].mean()


@pytest.mark.slow
def test_curves_are_means_over_seeds_of_what_the_files_say(results: Results) -> None:
    drawn = figure(results, ASKED)
    gsnr, output, last = drawn.figure.axes
    plain = results.gsnr[results.gsnr["estimator"] == "plain"]
    for axes, expected in (
        (gsnr, plain.groupby(["run", "epoch"], sort=False)["gsnr"].mean()),
        (output, iou(results, {"vanilla": "F_E", "insert": "F_E"})),
        (last, iou(results, {"vanilla": "F_E", "insert": "F_L2"})),
    ):
        curves = [line for line in axes.get_lines() if line.get_marker() == "None"]
        thick = [line for line in curves if line.get_linewidth() > 1]
        floors = [line.get_ydata()[0] for line in axes.get_lines() if line.get_label() in COMMON]
        assert sorted(floors) == pytest.approx([] if axes is gsnr else sorted(synthetic.FLOORS[1:]))
        assert len(thick) == 2
        for line, run in zip(thick, results.gsnr["run"].unique(), strict=True):
            assert list(line.get_ydata()) == pytest.approx(list(expected[run]))


def test_the_other_activation_can_be_shown(results: Results) -> None:
    values = {
        kind: figure(results, Settings(reads="scenes", activation=kind)).values
        for kind in ("magnitude", "frequency")
    }
    moved = values["frequency"]["value"] - values["magnitude"]["value"]
    is_iou = values["magnitude"]["quantity"].isin([OUTPUT, LAST])
    assert moved[is_iou].to_numpy() == pytest.approx(0.1)
    assert (moved[~is_iou] == 0).all()


def test_floors_are_those_of_each_place_after_the_last_epoch(results: Results) -> None:
    measured = results.filtering.copy()
    draws = np.random.default_rng(0)
    measured["iou_permuted"] = draws.uniform(0.1, 0.2, len(measured))
    parts = {"gsnr": results.gsnr, "history": results.history, "filtering": measured}
    drawn = figure(results_of(**parts), ASKED)
    values = drawn.values.set_index(["run", "seed", "quantity"])
    magnitude = measured[measured["activation"] == "magnitude"]
    expected = magnitude.set_index(["run", "seed", "place"])["iou_permuted"]
    for run, last in zip(SHOWN, ("F_E", "F_L2"), strict=True):
        for quantity, place in ((OUTPUT, "F_E"), (LAST, last)):
            found = values.loc[(run, 1, f"{quantity}: its tokens permuted")]
            assert found["value"] == expected[run, 1, place]
            assert found["epoch"] == results.gsnr["epoch"].max()
            axes = drawn.figure.axes[1 if quantity == OUTPUT else 2]
            ends = [line.get_xydata().tolist() for line in axes.get_lines()]
            mean = (expected[run, 0, place] + expected[run, 1, place]) / 2
            assert [[found["epoch"], pytest.approx(mean)]] in ends


def test_the_finding_has_the_ends_and_the_correlation_within_trainings() -> None:
    rows = [
        (run, seed, epoch, quantity, value)
        for number, run in enumerate(("a", "b"))
        for seed in (0, 1)
        for epoch in range(3)
        for quantity, value in (
            (GSNR, 0.1 * (epoch + 1)),
            (OUTPUT, 0.2 + 0.1 * epoch - 0.5 * number),
            (LAST, 0.0),
        )
    ]
    values = DataFrame(rows, columns=["run", "seed", "epoch", "quantity", "value"])
    [found] = findings(None, values)
    assert "GSNR goes from 0.1000 to 0.3000" in found.found
    assert "from -0.050 to 0.150" in found.found
    assert "within runs: ρ = 1.00, p = 0.002." in found.found  # 2 of 6 ** 4 orders


@pytest.mark.parametrize(
    ("has_masks", "over_epochs", "line"),
    [
        (False, True, r"targets\.mine\.reads: the sets of scenes must have masks, got glyphs"),
        (True, False, r"targets\.mine: activations must be compared while training, got filter"),
    ],
)
def test_what_cannot_be_shown_is_one_line(has_masks: bool, over_epochs: bool, line: str) -> None:
    names = ("vision", "variant", "control", "language", "layer", "position", "weights")
    factors = SimpleNamespace(data=("glyphs",), **dict.fromkeys(names, ()))
    config = SimpleNamespace(
        experiments={"scenes": factors},
        data={"glyphs": SimpleNamespace(task="image_classification", has_masks=has_masks)},
        visions={},
        languages={},
        filtering=FilteringSection(over_epochs=over_epochs),
    )
    with pytest.raises(ValueError, match=line):
        check(ASKED, config, "targets.mine")
