"""Pang et al.: clouds and traffic through the readers of the published sets, on generated files."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from rectify.demo import lanes
from rectify.demo.solids import SOLIDS
from rectify.results.declared import GSNR, HISTORY, SCORES
from rectify.results.tables import read_note, read_table
from rectify.targets.forecasts import VALUES
from rectify.tasks.pairs.readers import glyph_solids
from rectify.trunks.point_bert import PointBert
from tests.helpers import cloud_trees, traffic_trees
from tests.helpers.point_bert import checkpoint
from tests.workflow.project import ROOT, copy_project, warm

CONFIG = ("demo-pang.yaml", "tests/clouds_and_traffic.yaml")
RESULTS = Path("results") / "clouds"
BERT = "point-bert-64"
SCANS, MODELS = "scans", "models"
NET, CROSSED = "vectornet-64", 6
CAPTIONED = 12
TARGETS = ("pang_table2", "pang_table4", "points-filtering", "points-activations")
TARGETS += ("points-similarity", "forecasts")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which the tables were made."""
    project = copy_project(tmp_path_factory.mktemp("clouds"))
    overlay = ROOT / "tests" / "clouds_and_traffic.yaml"
    (project / "tests" / "clouds_and_traffic.yaml").write_bytes(overlay.read_bytes())
    data = project / "data"
    scans = cloud_trees.drawn(2048, "hardest", train=2)
    cloud_trees.write_scanobjectnn(data / "scanobjectnn", "hardest", scans)
    models = cloud_trees.drawn(8192, "only", train=2)
    cloud_trees.write_dat(data / "modelnet40", models, 8192)
    traffic = lanes.drawn(seed=3, train_items=8, test_items=CROSSED)
    traffic_trees.write(data / "argoverse", traffic)
    sizes = yaml.safe_load(overlay.read_text())["visions"][BERT]["overrides"]
    (project / "models").mkdir()
    torch.manual_seed(5)
    trunk = PointBert.of({**sizes, "heads": 2}, classes=12, points=64)
    checkpoint(trunk, project / "models" / "Point-BERT.pth")
    captioned = glyph_solids.read(points=64, items=CAPTIONED)["pairs"]
    cloud_trees.write_cap3d(data / "cap3d", captioned)
    said = warm(project, "--configfile", *CONFIG, "--", *TARGETS)
    assert said.returncode == 0, said.stdout[-4000:]
    return project


def run_of(finished: Path, data: str, vanilla: bool) -> Path:
    name = "vanilla" if vanilla else "insert_llama-m_layer-3_end"
    return finished / RESULTS / "runs" / f"{data}_{BERT}_{name}"


def test_the_table_has_both_sets_beside_public_models(finished: Path) -> None:
    cells = pd.read_csv(finished / RESULTS / "tables" / "pang_table2.csv")
    ours = cells[cells["seeds"] > 0]
    assert set(zip(ours["group"], ours["column"], strict=True)) == {
        (group, f"acc@{k}") for group in ("ScanObjectNN T50", "ModelNet40 1k") for k in (1, 3)
    }
    assert ours["kind"].value_counts().to_dict() == {
        "value": 8,
        "gain": 4,
        "item test": 4,
        "item test, Holm": 4,
    }
    assert ours["mean"].notna().all()
    assert ours["paper"].isna().all()  # of another model
    public = cells[cells["seeds"] == 0].set_index(["row", "group"])["paper"]
    assert public["Point-MAE, as its authors have it", "ScanObjectNN T50"] == 85.18
    assert public["Point-MAE, as its authors have it", "ModelNet40 1k"] == 93.80


def test_every_run_is_scored_and_measured(finished: Path) -> None:
    for data in (SCANS, MODELS):
        for vanilla in (True, False):
            place = run_of(finished, data, vanilla) / "seed-0"
            scores = read_table(SCORES, place / "scores.csv")
            assert (scores["items"] == len(SOLIDS)).all()
            gsnr = read_table(GSNR, place / "gsnr.csv")
            assert set(gsnr["block"]) == {0, 1}
            assert (gsnr["noise"] > 0).all()


def test_activations_are_compared_with_the_masks_of_the_files(finished: Path) -> None:
    values = pd.read_csv(finished / RESULTS / "figures" / "points-filtering.csv")
    assert (values["images"] + values["dropped"] == len(SOLIDS)).all()
    runs = set(values["run"])
    assert {run.removeprefix(f"{SCANS}_{BERT}_").partition("_")[0] for run in runs} == {
        *("vanilla", "insert", "auxiliary")
    }
    inserted = values[values["run"].str.contains("insert")]
    assert {"block-0", "block-1", "F_E", "F_L1", "F_A", "F_F", "F_L2"} == set(inserted["place"])
    listing = pd.read_csv(finished / RESULTS / "data" / SCANS / "masks" / "masks.csv")
    assert listing["source"][0] == "main_split/test_objectdataset_augmentedrot_scale75.h5:0"
    drawn = pd.read_csv(finished / RESULTS / "figures" / "points-activations.csv")
    assert set(drawn["run"]) == runs
    assert len(drawn) == 3 * 3 * 8  # clouds, runs, groups
    assert (finished / RESULTS / "figures" / "points-activations.png").stat().st_size > 10_000
    history = read_table(HISTORY, run_of(finished, SCANS, True) / "seed-0" / "history.csv")
    last = history[history["epoch"] == 1].set_index("metric")["value"]
    at_end = values[values["run"].str.contains("vanilla") & (values["place"] == "F_E")]
    for row in at_end.itertuples():
        assert last[f"iou/F_E/{row.activation}"] == pytest.approx(row.iou)


def test_layers_are_compared_with_blocks_on_captioned_clouds(finished: Path) -> None:
    values = pd.read_csv(finished / RESULTS / "figures" / "points-similarity.csv")
    assert set(values["vision_block"]) == {0, 1}
    assert values["mutual_knn"].between(0, 1).all()
    assert values["chance"].unique() == pytest.approx([3 / (CAPTIONED - 1)])


def test_settings_and_starts_are_those_of_the_configuration(finished: Path) -> None:
    scans, models = (
        json.loads((run_of(finished, data, False) / "config.json").read_text())
        for data in (SCANS, MODELS)
    )
    assert scans["recipe"]["lr_factors"][0] == [r"^bridge\.", 0.1]
    assert models["recipe"]["lr_factors"][0] == [r"^bridge\.", 0.5]
    assert (scans["data"]["normalise"], models["data"]["normalise"]) == ("none", "unit")
    assert "votes" not in scans["data"]  # they train nothing again
    notes = [
        read_note(run_of(finished, data, True) / "seed-0" / "history.csv")["provenance"]["facts"]
        for data in (SCANS, MODELS)
    ]
    assert list(notes[0]["starts"]) == ["models/Point-BERT.pth"]
    assert "starts" not in notes[1]


def test_the_prepared_sets_say_where_each_cloud_comes_from(finished: Path) -> None:
    for data, source in (
        (SCANS, "main_split/test_objectdataset_augmentedrot_scale75.h5:0"),
        (MODELS, "modelnet40_test_8192pts_fps.dat:0 sphere_5000"),
    ):
        listing = pd.read_csv(finished / RESULTS / "data" / data / "manifest.csv")
        assert listing["split"].value_counts().to_dict() == {"train": 24, "test": 12}
        assert source in set(listing["source"])


def test_forecasts_are_scored_in_metres_beside_public_models(finished: Path) -> None:
    cells = pd.read_csv(finished / RESULTS / "tables" / "pang_table4.csv")
    ours = cells[cells["seeds"] > 0]
    names = ("minADE", "minFDE", "MR")
    columns = [*(name for one in names for name in (one, f"{one}, 6 best")), "brier-minFDE"]
    heads = cells.drop_duplicates("column_index").sort_values("column_index")["column"].tolist()
    assert heads == [*columns, "GSNR", "GSNR gain at equal loss"]
    assert ours["row"].nunique() == 5  # two models, without and with, and constant velocity
    kinds = ours["kind"].value_counts().to_dict()
    assert kinds.pop("relative gain") >= 2
    values = 4 * (len(columns) + 1) + len(columns)
    assert kinds == {"value": values, "gain": 14, "item test": 14, "item test, Holm": 14}
    for vanilla in (True, False):
        name = "vanilla" if vanilla else "insert_llama-m_layer-3_end"
        place = finished / RESULTS / "runs" / f"traffic_{NET}_{name}" / "seed-0"
        scores = read_table(SCORES, place / "scores.csv").query("metric == 'min_fde' and k == 6")
        items = pd.read_parquet(place / "predictions.parquet")
        assert len(items) == scores["items"].item() == CROSSED
        assert items["min_fde@6"].mean() == pytest.approx(scores["value"].item(), rel=1e-5)
        assert (items["min_fde@6"] <= items["min_fde@1"]).all()
        assert set(read_table(GSNR, place / "gsnr.csv")["block"]) == {0, 1}
    public = cells[cells["seeds"] == 0].set_index(["row", "column"])["paper"]
    assert public["mmTransformer, as its authors released it", "minFDE, 6 best"] == 1.081


def test_forecasts_are_drawn_from_what_was_scored(finished: Path) -> None:
    """The ends of the drawn trajectories, and of the truth, give the kept minFDE."""
    values = read_table(VALUES, finished / RESULTS / "figures" / "forecasts.csv")
    names = ("vanilla", "insert_llama-m_layer-3_end", "auxiliary_llama-m_layer-3_end_lambda-0.35")
    runs = [f"traffic_{NET}_{name}" for name in names]
    assert set(values["run"]) == {"-", *runs}
    ends = values[values["point"] == 30].set_index(["line", "item", "run", "number"]).sort_index()
    places = ["ahead", "left"]
    for run in runs:
        path = finished / RESULTS / "runs" / run / "seed-0" / "predictions.parquet"
        items = pd.read_parquet(path).set_index("item")
        for item in values["item"].unique():
            truth = ends.loc[("truth", item, "-", 0), places]
            apart = ends.loc[("forecast", item, run), places] - truth
            assert len(apart) == 6
            least = np.hypot(*apart.to_numpy().T).min()
            assert least == pytest.approx(items.loc[item, "min_fde@6"], rel=1e-4)
