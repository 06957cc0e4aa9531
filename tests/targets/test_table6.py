"""Table 6: the paper's own numbers, and weights that are compared with the same weights only."""

from pathlib import Path

import pytest

from rectify.targets.table6 import Settings, table
from tests.helpers import printed, synthetic
from tests.helpers.printed import AUXILIARY, BAR, exactly
from tests.helpers.synthetic import VITS, Run

ASKED = Settings(reads="weights")


@pytest.mark.slow
def test_it_prints_the_paper(tmp_path: Path) -> None:
    cells = table(synthetic.collected(tmp_path, printed.weights()), ASKED)
    printed.check_as_printed("table6", cells)
    last = cells.drop_duplicates("column_index").iloc[-2:]
    assert last[["group", "column"]].to_numpy().tolist() == [["BAR", "acc@1"], ["BAR", "acc@3"]]
    assert cells["row"].unique().tolist() == ["0", "0.15", "0.25", "0.35", "0.45"]


@pytest.mark.parametrize("data", [["bar"], ["caltech256", "cifar100", "bar"]])
def test_its_sets_are_compared_with_themselves_however_few_and_in_any_order(
    tmp_path: Path, data: list[str]
) -> None:
    runs = [run for run in printed.weights() if run.data.name in data]
    cells = table(synthetic.collected(tmp_path, runs, order={"data": data}), ASKED)
    printed.check_all_compared(cells, 10 * len(data))


def test_weights_are_compared_with_the_same_weights_only(tmp_path: Path) -> None:
    runs = [run for run in printed.weights() if run.data is BAR and run.lambda_init in (0, 0.35)]
    other = {**AUXILIARY, "lambda_init": 0.1}
    runs += [Run(BAR, VITS["ViT-S"], **exactly({"test": 34.0}), k=3, **other)]
    cells = table(synthetic.collected(tmp_path, runs), ASKED)
    values = cells[cells["kind"] == "value"]
    assert values["paper_row"].tolist() == ["0", "0", "-", "-", "0.35", "0.35"]
    assert set(cells[cells["kind"] != "value"]["row"]) == {"0.1", "0.35"}
    printed.check_all_compared(cells[cells["paper_row"] != "-"], 4)
