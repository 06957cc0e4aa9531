"""Tables 4, 5 and 6 through the readers of the published sets, on generated trees."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from rectify.results.declared import SCORES
from rectify.results.tables import read_note, read_table
from rectify.tasks.image_classification.readers.cifar100 import MD5
from tests.helpers import ssv2_tree, trees
from tests.helpers.configs import SMOKE
from tests.workflow.project import ROOT, call, copy_project

CONFIG = ("--configfile", "demo.yaml", "tests/smoke.yaml", "tests/real.yaml", "--")
RESULTS = Path("results") / "real"


def write_data(project: Path) -> None:
    """Write the trees where config.yaml expects them; the copy's reader knows their digests."""
    data = project / "data"
    trees.write_imagenet(data)
    trees.write_caltech(data / "256_ObjectCategories")
    trees.write_bar(data / "bar")
    ssv2_tree.write_tree(data / "ssv2")
    (data / "ssv2" / "videos" / "105.webm").write_bytes(b"")
    digests = trees.write_cifar(data / "cifar-100-python", classes=6, train=20, test=12)
    reader = project / "rectify" / "tasks" / "image_classification" / "readers" / "cifar100.py"
    text = reader.read_text()
    for name, digest in MD5.items():
        text = text.replace(digest, digests[name])
    reader.write_text(text)


def write_start(project: Path) -> None:
    """Write the checkpoint from which ViT-S starts on clips, in the size that the demo gives it."""
    start = yaml.safe_load((project / "tests" / "real.yaml").read_text())["data"]["ssv2"]["visions"]
    sizes = SMOKE["visions"]["vit-64"]["overrides"]
    path = project / start["vit-64"]["start"]
    path.parent.mkdir()
    ssv2_tree.write_checkpoint(path, 28, sizes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which the three tables were made."""
    project = copy_project(tmp_path_factory.mktemp("real"))
    (project / "tests" / "real.yaml").write_bytes((ROOT / "tests" / "real.yaml").read_bytes())
    write_data(project)
    write_start(project)
    said = call(
        project,
        *("python", "-m", "rectify", "warm", "snakemake", "--cores", "2", *CONFIG),
        *("table4", "table5", "table6"),
    )
    assert said.returncode == 0, said.stdout[-4000:]
    return project


GSNR = ("GSNR", "GSNR, unnormalised", "GSNR gain at equal loss")


def cells(finished: Path, table: str) -> pd.DataFrame:
    return pd.read_csv(finished / RESULTS / "tables" / f"{table}.csv")


def columns_of(cells: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the columns, each with its group."""
    return set(zip(cells["group"], cells["column"], strict=True))


def kinds_of(cells: pd.DataFrame) -> dict[str, int]:
    return cells["kind"].value_counts().to_dict()


def assert_numbers(cells: pd.DataFrame) -> None:
    """Check that only a gain at equal loss may be none, since two epochs may share no loss."""
    is_none = cells["mean"].isna()
    assert set(cells.loc[is_none, "column"]) <= {"GSNR gain at equal loss"}


def test_table_4_has_imagenet_its_shifts_mce_and_the_clips(finished: Path) -> None:
    found = cells(finished, "table4")
    shifts = ("", "-C", "-C mCE", "-A", "-SK", "-R")
    scores = {("ImageNet", f"ImageNet{shift}") for shift in shifts}
    scores |= {("Something-Something-v2", name) for name in ("acc@1", "acc@2")}
    coherence = {(data, name) for data in ("ImageNet", "Something-Something-v2") for name in GSNR}
    assert columns_of(found) == scores | coherence
    assert kinds_of(found) == {
        "value": 2 * (len(scores) + 4), "gain": len(scores), "relative gain": 4,
        "item test": 3, "item test, Holm": 3,
    }  # fmt: skip
    assert_numbers(found)


def test_tables_5_and_6_have_every_set_with_its_second_accuracy(finished: Path) -> None:
    fifth, sixth = cells(finished, "table5"), cells(finished, "table6")
    sets = ("CIFAR-100", "Caltech 256")
    names = ("acc@1", "acc@5")
    assert columns_of(fifth) == {(data, name) for data in sets for name in (*names, *GSNR)}
    assert kinds_of(fifth) == {
        "value": 2 * (4 + 4), "gain": 4, "item test": 4, "item test, Holm": 4, "relative gain": 4
    }  # fmt: skip
    columns = {(data, name) for data in sets for name in names}
    assert columns_of(sixth) == columns | {("BAR", "acc@1"), ("BAR", "acc@3")}
    assert kinds_of(sixth) == {"value": 2 * 6, "gain": 6, "item test": 6, "item test, Holm": 6}
    assert_numbers(fifth)
    assert_numbers(sixth)


def test_every_test_item_is_evaluated_under_every_shift(finished: Path) -> None:
    path = finished / RESULTS / "runs" / "imagenet_vit-64_vanilla" / "seed-0" / "scores.csv"
    rows = read_table(SCORES, path).query("metric == 'accuracy' and k == 1")
    assert rows.groupby("set")["items"].sum().to_dict() == {
        "test": 12, "c": 15 * 5 * 6, "a": 5, "sk": 6, "r": 5
    }  # fmt: skip


def test_the_video_columns_are_those_of_the_evaluated_clips(finished: Path) -> None:
    found = cells(finished, "table4")
    is_video = (found["group"] == "Something-Something-v2") & (found["column"] == "acc@1")
    is_video &= found["kind"] == "value"
    shown = found[is_video].set_index("row")["mean"]
    runs = ("vanilla", "auxiliary_llama-m_layer-2_end_lambda-0.35")
    for run, row in zip(runs, ("ViT-64", "ViT-64 +AUX"), strict=True):
        place = finished / RESULTS / "runs" / f"ssv2_vit-64_{run}" / "seed-0"
        scores = read_table(SCORES, place / "scores.csv").query("metric == 'accuracy' and k == 1")
        assert scores["items"].tolist() == [6]
        assert shown[row] == pytest.approx(100 * scores["value"].item())


def test_the_frozen_splits_say_what_was_read(finished: Path) -> None:
    for name, items in {
        "imagenet": {"train": 24, "test": 12},
        "imagenet/shift-c": {"test-c": 450},
        "imagenet/shift-a": {"test-a": 5},
        "imagenet/shift-sk": {"test-sk": 6},
        "imagenet/shift-r": {"test-r": 5},
        "cifar100": {"train": 20, "test": 12},
        "caltech256": {"train": 24, "test": 6},
        "bar": {"train": 18, "test": 12},
        "ssv2": {"train": 11, "test": 6},
    }.items():
        note = read_note(finished / RESULTS / "data" / name / "manifest.csv")
        facts = note["provenance"]["facts"]
        assert facts["items"] == items
        if "shift" not in name:
            assert len(facts["classes"]) == (3 if name == "ssv2" else 6)
        assert len(facts["sha256"]) == 64
        assert facts["left_out"] == (["videos/105.webm"] if name == "ssv2" else [])
    log = finished / RESULTS / "logs" / "prepare_data" / "caltech256.log"
    assert "001.ak47: left out 1 that are no images: greg" in log.read_text()
