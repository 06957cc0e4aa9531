"""Pang et al.'s Table 4: errors, of which less is a gain."""

import dataclasses
from pathlib import Path

import pytest
import torch
from pandas import DataFrame

from rectify.analysis.latex import to_latex
from rectify.analysis.printing import to_markdown
from rectify.analysis.published import printed
from rectify.data.forecasts import FUTURE, OBSERVED, save_scenes
from rectify.demo.lanes import lanes
from rectify.results.provenance import provenance
from rectify.targets import pang_table4
from rectify.tasks.motion_forecasting import measures
from rectify.training.scoring import write_predictions
from tests.helpers import synthetic
from tests.helpers.forecasters import constant_velocity
from tests.helpers.printed import ARGOVERSE, INSERTED, UNPRINTED, forecasting
from tests.helpers.synthetic import Model, Run


def runs(data: Model = ARGOVERSE) -> list[Run]:
    return [
        dataclasses.replace(
            forecasting(
                "pang_table4", f"{model}{added}", Model(model.lower(), model, 1e6), **settings
            ),
            data=data,
        )
        for model in ("VectorNet", "mmTransformer")
        for added, settings in (("", {}), (" +LLaMA", INSERTED))
    ]


def table(root: Path, data: Model = ARGOVERSE) -> DataFrame:
    results = synthetic.collected(root, runs(data))
    return pang_table4.table(results, pang_table4.Settings(reads="any"))


def test_it_prints_the_paper_cell_by_cell_and_less_is_a_gain(tmp_path: Path) -> None:
    cells = table(tmp_path)
    values = cells[(cells["kind"] == "value") & (cells["seeds"] > 0)]
    ours = values.set_index(["paper_row", "paper_column"])
    theirs = printed("pang_table4").cells
    assert len(theirs) == values["paper"].notna().sum() == 14
    for cell in theirs:
        row = ours.loc[(cell.row.name, f"{cell.column}")]
        assert (row["paper"], row["unit"]) == (cell.value, cell.unit)
        assert row["mean"] == pytest.approx(cell.value)
    gains = cells[(cells["kind"] == "gain") & cells["paper"].notna()]
    assert len(gains) == 6
    assert gains["paper"].tolist() == pytest.approx([0.01, 0.03, 0.5, 0.01, 0.02, 0.2])
    assert gains["mean"].tolist() == pytest.approx(gains["paper"].tolist())
    assert gains["unit"].tolist() == ["m", "m", "points"] * 2


@pytest.mark.slow
def test_what_is_in_the_layer_s_place_is_shown_and_not_counted_as_its_help(tmp_path: Path) -> None:
    frozen = runs()
    controls = [dataclasses.replace(run, control="mlp") for run in frozen if run.language]
    results = synthetic.collected(tmp_path, [*frozen, *controls])
    cells = pang_table4.table(results, pang_table4.Settings(reads="any"))
    assert cells["row"].str.contains("MLP").any()
    without = table(tmp_path / "without")
    (found,), (expected,) = (pang_table4.findings(one, None) for one in (cells, without))
    assert found.found.split(" gain")[0] == expected.found.split(" gain")[0] == "6 of 12"


def test_gains_in_metres_and_in_points_are_counted_apart(tmp_path: Path) -> None:
    cells = table(tmp_path)
    (found,) = pang_table4.findings(cells, None)
    row = "VectorNet +LLaMA-7B, Argoverse"
    least = UNPRINTED["min_ade", 1] - 1.60
    assert found.found.startswith(
        f"6 of 12 gain, from -{least:.2f} ({row}, minADE) to +0.03 ({row}, "
    )
    assert ") m and from +0.00 (" in found.found
    assert "+0.50 (VectorNet +LLaMA-7B, Argoverse, MR, 6 best) points" in found.found


def test_the_last_row_is_constant_velocity_on_the_same_scenes(tmp_path: Path) -> None:
    sets = lanes(train_items=1, test_items=7)
    save_scenes(tmp_path / "lanes", sets, provenance(0))
    run = dataclasses.replace(runs()[1], data=Model("lanes", "Lanes", 0))
    alone = dataclasses.replace(runs()[0], data=run.data)
    results = synthetic.collected(tmp_path, [alone, run])
    said = {"trajectories": torch.zeros(100, 2 * FUTURE), "probabilities": torch.ones(100, 1)}
    scored = {f"{name}@{k}": torch.zeros(100) for name, k in run.scores}
    for folder in results.folders:
        values = {name: one.double() for name, one in {**scored, **said}.items()}
        write_predictions(values, folder / "seed-0" / "predictions.parquet")
    asked = pang_table4.Settings(reads="any")
    cells = pang_table4.table(dataclasses.replace(results, sets=[tmp_path / "lanes"]), asked)
    floor = cells[cells["row"] == "constant velocity"].set_index("column")["mean"]
    assert cells["row"].iloc[-1] == "constant velocity"
    batch = sets["test"].batch(torch.arange(7))
    way = constant_velocity(batch["tracks"])[:, :1, None]
    outputs = {"trajectories": way, "scores": torch.zeros(7, 1, 1)}
    expected = measures.scores(outputs, batch["tracks"][:, 0, OBSERVED:], 6)
    for name, title, factor in (
        ("min_ade", "minADE", 1), ("min_fde", "minFDE", 1), ("miss_rate", "MR", 100),
    ):  # fmt: skip
        mean = factor * expected[f"{name}@6"].mean().item()
        assert floor[title] == floor[f"{title}, 6 best"] == pytest.approx(mean, rel=1e-4)
    assert len(floor) == 6  # it has no gradient
    (found,), (without,) = (
        pang_table4.findings(one, None) for one in (cells, pang_table4.table(results, asked))
    )
    assert found == without


def test_gsnr_has_its_gain_at_equal_epoch_and_at_equal_loss(tmp_path: Path) -> None:
    alone, block = runs()[:2]
    block = dataclasses.replace(block, gsnr=lambda seed, *_: (1.5 + 0.25 * seed) * 1e-3)
    results = synthetic.collected(tmp_path, [alone, block], seeds=(0, 1))
    cells = pang_table4.table(results, pang_table4.Settings(reads="any"))
    cells = cells.set_index(["row", "column", "kind"])["mean"]
    row = "VectorNet +LLaMA-7B"
    assert cells[row, "GSNR", "value"] == pytest.approx(1.625)
    assert cells["VectorNet", "GSNR", "value"] == pytest.approx(1)
    at_loss = cells[row, "GSNR gain at equal loss", "relative gain"]
    for gain in (cells[row, "GSNR", "relative gain"], at_loss):
        assert gain == pytest.approx((50 + 75) / 2)  # paired by seed


@pytest.mark.slow
def test_public_models_are_the_last_rows_on_their_own_data_alone(tmp_path: Path) -> None:
    cells = table(tmp_path / "theirs")
    public = cells[cells["seeds"] == 0]
    ours = {(c["paper_row"], c["paper_column"]): c["paper"] for _, c in public.iterrows()}
    assert ours == {
        (c.row.name, f"{c.column}"): c.value for c in printed("pang_table4_public").cells
    }
    assert "nan" not in to_markdown(cells) + to_latex(cells, caption="", name="")
    other = table(tmp_path / "other", Model("lanes", "Lanes", 0))
    assert (other["seeds"] > 0).all()
    assert other["paper"].isna().all()
