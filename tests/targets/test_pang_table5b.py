"""Pang et al.'s Table 5b: types of questions, three floors, and whose printed numbers are ours."""

from pathlib import Path

import pytest
from pandas import DataFrame

from rectify.analysis.cells import NO_RUN
from rectify.analysis.latex import to_latex
from rectify.analysis.printing import to_markdown
from rectify.analysis.published import printed
from rectify.targets import pang_table5b
from tests.helpers import synthetic
from tests.helpers.printed import INSERTED
from tests.helpers.synthetic import Model, Run

SQA3D = Model("sqa3d", "SQA3D", 0)
OURS, THEIRS = Model("sqa3d", "SQA3D", 1e6), Model("sqa3d-768", "SQA3D-768", 1e6)
TYPES = ("what", "is", "how", "can", "which", "others")
COLUMNS = ["EM@1", "EM@10", *TYPES]
PLAIN = (0.47, 0.87, 0.33, 0.66, 0.42, 0.69, 0.43, 0.46)
BLOCK = (0.48, 0.86, 0.34, 0.67, 0.42, 0.68, 0.44, 0.45)
FLOORS = {"question_alone": 0.3, "by_type": 0.2, "one_answer": 0.1}
FLOORS_SHOWN = ("question alone", "one answer per type", "one answer")


def run(vision: Model, shares: tuple[float, ...], data: Model = SQA3D, **settings: object) -> Run:
    best, ten, *kinds = shares
    floors = {(name, 1): share for name, share in FLOORS.items()}
    parts = {
        kind: {("em", 1): share, ("em", 10): 0.9, **floors}
        for kind, share in zip(TYPES, kinds, strict=True)
    }
    return Run(
        data, vision, lambda *_: 0.0, lambda *_: 1e-3, task="situated_question_answering", k=10,
        scores={("em", 1): best, ("em", 10): ten, **floors}, parts=parts, **settings,
    )  # fmt: skip


def table(root: Path, *runs: Run) -> DataFrame:
    results = synthetic.collected(root, list(runs))
    return pang_table5b.table(results, pang_table5b.Settings(reads="any"))


def test_rows_are_models_with_and_without_the_block_and_three_floors(tmp_path: Path) -> None:
    cells = table(tmp_path, run(OURS, PLAIN), run(OURS, BLOCK, **INSERTED))
    values = cells[(cells["kind"] == "value") & (cells["seeds"] > 0)]
    found = {
        row: one.sort_values("column_index").set_index("column")["mean"].to_dict()
        for row, one in values.groupby("row", sort=False)
    }
    assert list(found) == ["SQA3D", "SQA3D +LLaMA-7B", *FLOORS_SHOWN]
    for row, shares in (("SQA3D", PLAIN), ("SQA3D +LLaMA-7B", BLOCK)):
        assert list(found[row]) == COLUMNS
        assert list(found[row].values()) == pytest.approx([100 * share for share in shares])
    for row, share in zip(FLOORS_SHOWN, FLOORS.values(), strict=True):
        assert found[row] == pytest.approx(dict.fromkeys(["EM@1", *TYPES], 100 * share))
    assert set(values.loc[values["row"].isin(FLOORS_SHOWN), "run"]) == {NO_RUN}
    gains = cells[cells["kind"] == "gain"]
    assert set(gains["row"]) == {"SQA3D +LLaMA-7B"}
    assert gains["mean"].tolist() == pytest.approx([1, -1, 1, 1, 0, -1, 1, -1])
    (found,) = pang_table5b.findings(cells, None)
    assert found.found.startswith("4 of 8 gain, from -1.00 (SQA3D +LLaMA-7B, SQA3D, ")
    assert "nan" not in to_markdown(cells) + to_latex(cells, caption="", name="")


def test_printed_numbers_are_of_the_model_and_width_that_they_are_of(tmp_path: Path) -> None:
    """The plain one of the authors' width, those with something inserted of Pang et al.'s."""
    cells = table(
        tmp_path,
        *(run(vision, PLAIN) for vision in (OURS, THEIRS)),
        *(run(vision, BLOCK, **INSERTED) for vision in (OURS, THEIRS)),
    )
    compared = cells[cells["paper"].notna() & (cells["seeds"] > 0)]
    assert compared.groupby("row", sort=False)["paper"].apply(list).to_dict() == {
        "SQA3D": [47.20, 86.82, 33.48, 66.10, 42.37, 69.53, 43.02, 46.40],
        "SQA3D-768 +LLaMA-7B": [48.09, 89.03, 34.27, 67.05, 48.17, 68.34, 43.87, 45.64],
    }
    assert set(compared["kind"]) == {"value"}  # no gain: they are not each other's baseline
    quoted = cells[cells["seeds"] == 0]
    assert len(quoted) == len(printed("pang_table5b_public").cells)
    other = table(tmp_path / "other", run(OURS, PLAIN, Model("rooms", "Rooms", 0)),
                  run(OURS, BLOCK, Model("rooms", "Rooms", 0), **INSERTED))  # fmt: skip
    assert other["paper"].isna().all()
    assert (other["seeds"] > 0).all()
