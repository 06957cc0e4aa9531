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
    printed.check_all_compared(cells, 12 * len(data))
    assert cells["group"].iloc[0] == "Caltech 256"


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
    printed.check_all_compared(cells, 18)
