"""Pang et al.'s Table 5a: kinds of answers, what words alone tell, numbers of another test set."""

from pathlib import Path

import pytest
from pandas import DataFrame

from rectify.analysis.latex import to_latex
from rectify.analysis.printing import to_markdown
from rectify.analysis.published import printed
from rectify.targets import pang_table5a
from tests.helpers import synthetic
from tests.helpers.printed import INSERTED
from tests.helpers.synthetic import Model, Run

VQA = Model("vqav2", "VQAv2", 0)
KINDS = {"overall": "test", "yes/no": "yes-no", "number": "number", "other": "other"}
ALONE, PLAIN, BLOCK = (0.44, 0.62, 0.31, 0.27), (0.7, 0.85, 0.5, 0.6), (0.71, 0.84, 0.52, 0.63)


def run(data: Model, accuracies: tuple[float, ...], **settings: object) -> Run:
    scores = {
        name: {("vqa", 1): own, ("question_alone", 1): floor}
        for name, own, floor in zip(KINDS.values(), accuracies, ALONE, strict=True)
    }
    return Run(
        data, Model("meter", "METER", 1e6), lambda *_: 0.0, lambda *_: 1e-3,
        task="visual_question_answering", scores=scores.pop("test"), parts=scores, **settings,
    )  # fmt: skip


def table(root: Path, data: Model = VQA) -> DataFrame:
    results = synthetic.collected(root, [run(data, PLAIN), run(data, BLOCK, **INSERTED)])
    return pang_table5a.table(results, pang_table5a.Settings(reads="any"))


def test_rows_are_the_model_the_block_and_the_words_alone(tmp_path: Path) -> None:
    cells = table(tmp_path)
    values = cells[(cells["kind"] == "value") & (cells["seeds"] > 0)]
    found = {row: one.sort_values("column_index")["mean"].tolist()
             for row, one in values.groupby("row", sort=False)}  # fmt: skip
    expected = {"METER": PLAIN, "METER +LLaMA-7B": BLOCK, "question alone": ALONE}
    assert list(found) == list(expected)
    for row, shares in expected.items():
        assert found[row] == pytest.approx([100 * share for share in shares])
    assert values.drop_duplicates("column_index")["column"].tolist() == list(KINDS)
    assert values["paper"].isna().all()  # of another test set
    gains = cells[cells["kind"] == "gain"]
    assert gains["mean"].tolist() == pytest.approx([1.0, -1.0, 2.0, 3.0])
    assert set(gains["row"]) == {"METER +LLaMA-7B"}
    (found,) = pang_table5a.findings(cells, None)
    assert found.found.startswith("3 of 4 gain, from -1.00 (METER +LLaMA-7B, VQAv2, yes/no)")


def test_printed_numbers_are_rows_of_their_own_on_their_own_data_alone(tmp_path: Path) -> None:
    cells = table(tmp_path / "theirs")
    quoted = cells[cells["seeds"] == 0]
    ours = {(c["paper_row"], c["paper_column"]): c["paper"] for _, c in quoted.iterrows()}
    theirs = printed("pang_table5a").cells
    assert ours == {(cell.row.name, f"{cell.column}"): cell.value for cell in theirs}
    assert len(ours) == 8
    order = cells.sort_values("row_index")["row"].unique()
    assert order[-3:].tolist() == [*quoted["row"].unique(), "question alone"]
    assert "nan" not in to_markdown(cells) + to_latex(cells, caption="", name="")
    other = table(tmp_path / "other", Model("questions", "Questions", 0))
    assert (other["seeds"] > 0).all()
    assert other["row"].nunique() == 3
