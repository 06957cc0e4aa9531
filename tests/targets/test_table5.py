"""Table 5: the paper's own numbers, however few and in any order, and none for others."""

from pathlib import Path

import pytest

from rectify.targets.table5 import Settings, table
from tests.helpers import printed, synthetic
from tests.helpers.printed import AUXILIARY, CIFAR, exactly
from tests.helpers.synthetic import VITS, Run

ASKED = Settings(reads="small")


def test_it_prints_the_paper(tmp_path: Path) -> None:
    runs = printed.small_sets()[::-1]
    results = synthetic.collected(tmp_path, runs, estimator="unnormalised")
    printed.check_as_printed("table5", table(results, ASKED))


@pytest.mark.parametrize("data", [["caltech256"], ["caltech256", "cifar100"]])
def test_its_sets_are_compared_with_themselves_however_few_and_in_any_order(
    tmp_path: Path, data: list[str]
) -> None:
    runs = [run for run in printed.small_sets() if run.data.name in data]
    cells = table(synthetic.collected(tmp_path, runs, order={"data": data}), ASKED)
    printed.check_all_compared(cells, 14 * len(data))
    assert cells["group"].iloc[0] == "Caltech 256"


def test_the_gain_in_gsnr_is_next_to_the_papers_in_percent(tmp_path: Path) -> None:
    results = synthetic.collected(tmp_path, printed.small_sets(), order={"data": ["cifar100"]})
    cells = table(results, ASKED)
    gains = cells[(cells["kind"] == "relative gain") & (cells["column"] == "GSNR")]
    found = gains.set_index(["group", "row"])["paper"].to_dict()
    expected = {
        ("CIFAR-100", "ViT-T +AUX"): 19.9, ("CIFAR-100", "ViT-S +AUX"): 6.3,
        ("Caltech 256", "ViT-T +AUX"): 42.8, ("Caltech 256", "ViT-S +AUX"): 64.2,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=0.051)  # as the text rounds them
    plain = cells[cells["column"] == "GSNR"]
    assert plain[plain["kind"] == "value"]["paper"].isna().all()
    assert cells[cells["column"] == "GSNR, unnormalised"]["paper"].notna().all()


def test_losses_that_do_not_overlap_are_said(tmp_path: Path) -> None:
    results = synthetic.collected(tmp_path, printed.small_sets())
    gsnr = results.gsnr
    gsnr.loc[gsnr["variant"] == "auxiliary", "main_loss"] += 100
    cells = table(results, ASKED)
    at_loss = cells[cells["column"] == "GSNR gain at equal loss"]
    assert set(at_loss["text"]) == {"no common loss"}
    assert at_loss["mean"].isna().all()
    assert at_loss["row"].unique().tolist() == ["ViT-T +AUX", "ViT-S +AUX"]


def test_a_vit_that_the_paper_lacks_is_not_compared(tmp_path: Path) -> None:
    runs = [
        Run(CIFAR, VITS["ViT-B"], **exactly({"test": 73.0}), **settings)
        for settings in ({}, AUXILIARY)
    ]
    cells = table(synthetic.collected(tmp_path, runs), ASKED)
    assert set(cells["paper_row"]) == {"-"}


def test_a_vit_that_learnt_one_of_the_sets_has_no_cells_of_the_other(tmp_path: Path) -> None:
    runs = [
        run for run in printed.small_sets()
        if (run.data is CIFAR) or run.vision is VITS["ViT-S"]
    ]  # fmt: skip
    cells = table(synthetic.collected(tmp_path, runs), ASKED)
    tiny = cells[cells["row"] == "ViT-T +AUX"]
    assert tiny["group"].unique().tolist() == ["CIFAR-100"]
    printed.check_all_compared(cells, 21)
