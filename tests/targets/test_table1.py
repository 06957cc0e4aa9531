"""Table 1: the best similarity, the paper's own numbers, and models of its sizes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame

from rectify.analysis.collect import Results
from rectify.analysis.printing import to_markdown
from rectify.targets.table1 import Settings, table
from tests.helpers import printed, synthetic
from tests.helpers.synthetic import LLAMA, VITS, Model

ASKED = Settings(visions="any", languages="any")


def cells_of(*files: Path) -> DataFrame:
    return table(synthetic.compared(files), ASKED)


def test_it_prints_the_paper_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    files = list(printed.similarity(tmp_path).values())
    cells = cells_of(*files[::-1])
    printed.check_as_printed("table1", cells)
    means = cells.set_index(["row", "column", "kind"])["mean"].sort_index()
    assert means["ViT-S (22M)", "BLOOMZ-3B (3B)", "value"] == pytest.approx(0.1268)
    calibrated = means["ViT-S (22M), calibrated", "BLOOMZ-3B (3B)"]
    assert calibrated["calibrated"] == pytest.approx(0.1168)
    assert calibrated["p"] == pytest.approx(0.04)
    assert means["ViT-S (22M)", "chance", "chance"] == pytest.approx(10 / 1023)
    assert "0.1168 (p = 0.040)" in to_markdown(cells)
    assert cells["row"].unique().tolist()[:3] == [
        "ViT-T (5.7M)", "ViT-T (5.7M), calibrated", "ViT-S (22M)",
    ]  # fmt: skip


def test_other_pairs_are_not_compared_with_the_papers(tmp_path: Path) -> None:
    results = synthetic.compared(list(printed.similarity(tmp_path).values()))
    assert table(results, ASKED)["paper"].notna().any()
    results.titles["data"] = {"pairs": "My pairs"}
    assert table(results, ASKED)["paper"].isna().all()


@pytest.mark.parametrize("models", [("ViT-S", "BLOOMZ-7B"), ("ViT-B", "BLOOMZ-1.1B")])
def test_one_pair_is_compared_with_the_pair_of_its_sizes(
    tmp_path: Path, models: tuple[str, str]
) -> None:
    cells = cells_of(printed.similarity(tmp_path)[models])
    printed.check_all_compared(cells.iloc[:1], 1)
    assert cells["kind"].tolist() == ["value", "chance", "calibrated", "p"]
    assert cells["paper"].isna().tolist() == [False, True, True, True]


def test_a_score_is_the_best_of_a_seed_and_then_a_mean(tmp_path: Path) -> None:
    grids = [np.array([[0.1, 0.3], [0.2, 0.0]]), np.array([[0.5, 0.1], [0.0, 0.2]])]
    files = [
        synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], seed, grid)
        for seed, grid in enumerate(grids)
    ]
    cell = cells_of(*files).iloc[0]
    assert (cell["mean"], cell["seeds"]) == (pytest.approx(0.4), 2)


def test_the_p_value_is_that_of_the_best_pair_in_the_worst_seed(tmp_path: Path) -> None:
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, np.full((2, 2), 0.1))
    both = pd.concat([synthetic.compared([file]).similarity.assign(seed=seed) for seed in (0, 1)])
    both["p_maximum"] = [0.3, 0.01, 0.2, 0.5, 0.9, 0.8, 0.03, 0.7]
    cells = table(synthetic.results_of(similarity=both), ASKED)
    assert cells[cells["kind"] == "p"]["mean"].tolist() == [0.03]


@pytest.mark.parametrize(
    ("score", "kinds", "best"),
    [("mutual_knn_calibrated", ["calibrated", "p"], 0.29), ("cka", ["value"], 0.15),
     ("cknna", ["value"], 0.1)],
)  # fmt: skip
def test_another_score_is_shown_alone_and_not_next_to_the_paper(
    tmp_path: Path, score: str, kinds: list[str], best: float
) -> None:
    grid = np.array([[0.1, 0.3], [0.2, 0.0]])
    file = synthetic.write_similarity(tmp_path, LLAMA, VITS["ViT-S"], 0, grid)
    asked = Settings(visions="any", languages="any", score=score)
    cells = table(synthetic.compared([file]), asked)
    assert cells["kind"].tolist() == kinds
    assert cells["mean"].iloc[0] == pytest.approx(best)
    assert cells["paper"].isna().all()


def test_a_pair_of_models_that_was_compared_twice_is_an_error(tmp_path: Path) -> None:
    files = [
        synthetic.write_similarity(tmp_path / name, LLAMA, VITS["ViT-S"], 0, np.eye(2))
        for name in ("a", "b")
    ]
    with pytest.raises(ValueError, match="compared once per seed, got vit-s, llama-7b, 0 twice"):
        cells_of(*files)


def test_a_model_without_its_number_of_parameters_is_an_error(tmp_path: Path) -> None:
    unknown = Model("vit-s", "ViT-S", 0)
    file = synthetic.write_similarity(tmp_path, LLAMA, unknown, 0, np.eye(2))
    with pytest.raises(ValueError, match="number of parameters, got none of vit-s"):
        table(Results(similarity_files=[file]), ASKED)


def test_without_similarity_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="table1: there must be similarity files, got none"):
        cells_of()


def test_models_of_other_sizes_are_not_compared(demo: synthetic.Made) -> None:
    files = [f for f in demo.similarity if "untrained" not in f.name]
    cells = cells_of(*files)
    scores = cells[cells["kind"] == "value"]
    assert len(scores) == 12
    assert cells["paper"].isna().all()
    assert (scores["seeds"] == 2).all()
