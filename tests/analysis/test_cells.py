"""Cells: means and deviations over seeds, the paper's number in the same unit, what is left out."""

import math

import numpy as np
import pytest
from pandas import DataFrame

from rectify.analysis.cells import ColumnSpec, RowSpec, TableSpec, fill
from rectify.analysis.metrics import ACCURACY, Metric
from rectify.analysis.printing import note, ours_text
from rectify.analysis.published import Label, Printed, PrintedCell
from rectify.results.declared import CELLS
from rectify.results.tables import read_table, write_table
from tests.helpers import synthetic

GSNR = Metric("gsnr", "GSNR", "1", 1e-2)
PRINTED = Printed(
    (
        PrintedCell("t", Label("Late"), Label("acc"), "value", 71.0, "%", 1.0),
        PrintedCell("t", Label("Late"), Label("GSNR", "Set"), "value", 1.28, "1", 1e-5),
    )
)
COLUMNS = (
    ColumnSpec("acc", (ACCURACY,), printed=Label("acc")),
    ColumnSpec("GSNR", (GSNR,), group="Set", printed=Label("GSNR", "Set")),
)


def runs(**accuracies: list[float]) -> DataFrame:
    """Return runs with given accuracies per seed."""
    rows = [
        {"run": name, "place": name, "seed": seed, "accuracy": value, "gsnr": value / 10}
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    return DataFrame(rows)


def spec(*rows: RowSpec) -> TableSpec:
    return TableSpec("mine", rows, COLUMNS, PRINTED)


@pytest.mark.parametrize(
    ("accuracies", "std"),
    [([0.70], math.nan), ([0.70, 0.72], math.sqrt(2)), ([0.70, 0.71, 0.72], 1.0)],
)
def test_a_cell_is_the_mean_and_deviation_over_its_seeds(
    accuracies: list[float], std: float
) -> None:
    row = RowSpec("late", {"place": "late"}, Label("Late"))
    cell = fill(spec(row), runs(late=accuracies, early=[0.1])).iloc[0]
    assert cell["seeds"] == len(accuracies)
    assert cell["mean"] == pytest.approx(100 * np.mean(accuracies))
    assert cell["std"] == pytest.approx(std, nan_ok=True)
    assert (cell["paper_row"], cell["paper_column"], cell["paper"]) == ("Late", "acc", 71.0)
    assert cell["difference"] == pytest.approx(cell["mean"] - 71.0)


def test_the_paper_s_number_is_brought_to_our_power_of_ten() -> None:
    row = RowSpec("late", {"place": "late"}, Label("Late"))
    cell = fill(spec(row), runs(late=[0.5])).iloc[1]
    assert (cell["mean"], cell["scale"], cell["unit"]) == (pytest.approx(5.0), 1e-2, "1")
    assert cell["paper"] == pytest.approx(1.28e-3)
    assert (cell["group"], cell["paper_column"]) == ("Set", "Set: GSNR")


def test_a_printed_number_of_another_unit_is_not_compared() -> None:
    other = ColumnSpec("GSNR", (GSNR,), printed=Label("acc"))
    row = RowSpec("late", {"place": "late"}, Label("Late"))
    cell = fill(TableSpec("mine", [row], [other], PRINTED), runs(late=[0.5])).iloc[0]
    assert (cell["paper_row"], cell["paper_column"]) == ("-", "-")
    assert math.isnan(cell["paper"])


def test_a_cell_without_values_is_left_out_and_its_row_keeps_its_place() -> None:
    frame = runs(late=[0.5], early=[0.4])
    frame.loc[frame["run"] == "early", "accuracy"] = math.nan
    rows = [RowSpec(name, {"place": name}) for name in ("none", "early", "late")]
    cells = fill(spec(*rows), frame)
    places = list(zip(cells["row_index"], cells["column_index"], strict=True))
    assert places == [(1, 1), (2, 0), (2, 1)]
    assert set(cells["paper_row"]) == {"-"}


def test_a_row_may_show_only_some_of_its_columns_metrics() -> None:
    both = ColumnSpec("both", (ACCURACY, ACCURACY.gain))
    rows = [RowSpec("all", {}), RowSpec("gains", {}, shows=(ACCURACY.gain,))]
    frame = runs(late=[0.5]).assign(gain_accuracy=0.02)
    cells = fill(TableSpec("mine", rows, [both]), frame)
    assert cells[["row", "kind"]].to_numpy().tolist() == [
        ["all", "value"], ["all", "gain"], ["gains", "gain"],
    ]  # fmt: skip
    assert cells["mean"].tolist() == pytest.approx([50, 2, 2])


def test_two_runs_for_one_cell_are_an_error() -> None:
    with pytest.raises(ValueError, match="mine: a cell must show one run, got late and early"):
        fill(spec(RowSpec("any", {})), runs(late=[0.5], early=[0.4]))


def test_cells_are_read_back_in_the_order_of_the_table(tmp_path) -> None:
    rows = [RowSpec(name, {"place": name}) for name in ("zeta", "alpha")]
    cells = fill(spec(*rows), runs(alpha=[0.5], zeta=[0.4]))
    write_table(CELLS, cells, tmp_path / "cells.csv", synthetic.SOURCE)
    again = read_table(CELLS, tmp_path / "cells.csv")
    assert again["row"].tolist() == ["zeta", "zeta", "alpha", "alpha"]
    assert again["mean"].tolist() == pytest.approx(cells["mean"].tolist())


def test_several_tests_over_items_are_corrected_for_their_number() -> None:
    test = ACCURACY.item_test
    rows = [RowSpec(name, {"run": name}) for name in "abc"]
    frame = DataFrame({"run": list("abc"), "seed": 0, test.name: [0.02, 0.5, 0.01]})
    cells = fill(TableSpec("t", rows, [ColumnSpec("gain", (test,))]), frame)
    assert cells["kind"].tolist() == ["item test", "item test, Holm"] * 3
    assert cells["mean"].tolist() == pytest.approx([0.02, 0.04, 0.5, 0.5, 0.01, 0.03])
    alone = fill(TableSpec("t", rows[:1], [ColumnSpec("gain", (test,))]), frame)
    assert alone["kind"].tolist() == ["item test"]
    texts = [ours_text([row for _, row in cells[cells["row"] == name].iterrows()]) for name in "ac"]
    assert texts == ["p = 0.020 (Holm p = 0.040)", "p = 0.010 (Holm p = 0.030)"]
    assert "Holm p: corrected for the 3 tests of the table" in note(cells)


def test_a_cell_names_its_run_and_rows_that_are_no_runs_have_none() -> None:
    frame = runs(late=[0.7, 0.72], early=[0.1])
    rows = RowSpec("late", {"place": "late"}), RowSpec("early", {"place": "early"})
    cells = fill(spec(*rows), frame)
    assert list(cells["run"]) == [*["late"] * 2, *["early"] * 2]
    nameless = fill(spec(*rows), frame.drop(columns="run"))
    assert set(nameless["run"]) == {"-"}
