"""Table 5a of Pang et al. through the reader of VQAv2, on generated files; and drawn questions."""

import json
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from rectify.demo.questions import questions
from rectify.results.declared import GSNR, SCORES
from rectify.results.tables import read_note, read_table
from rectify.tasks.visual_question_answering.prepare import prepare
from rectify.tasks.visual_question_answering.settings import Settings
from tests.helpers import question_trees
from tests.workflow.project import ROOT, copy_project, warm

CONFIG = ("demo-pang.yaml", "tests/questions.yaml")
RESULTS = Path("results") / "questions"
SIZES = {"train_scenes": 30, "test_scenes": 9}
VARIANTS = {
    "vanilla": "vanilla",
    "insert": "insert_llama-m_layer-3_end",
    "auxiliary": "auxiliary_llama-m_layer-3_end_lambda-0.35",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project in which the tables were made."""
    project = copy_project(tmp_path_factory.mktemp("questions"))
    overlay = ROOT / "tests" / "questions.yaml"
    (project / "tests" / "questions.yaml").write_bytes(overlay.read_bytes())
    question_trees.write(project / "data" / "vqav2", questions(**SIZES))
    start = question_trees.write_starts(
        project / "models" / "meter", image_size=56, patch_size=28, words=64
    )
    keys = {"reader": "questions", "image_size": 56, "answers": 8, "words": 64, "sizes": SIZES}
    prepare("toy", Settings.model_validate(keys), None, 1).words.save(
        f"{start / 'roberta' / 'tokenizer.json'}"
    )
    said = warm(project, "--configfile", *CONFIG, "--", "pang_table5a", "questions")
    assert said.returncode == 0, said.stdout[-4000:]
    return project


def place_of(finished: Path, data: str, variant: str) -> Path:
    return finished / RESULTS / "runs" / f"{data}_meter-64_{VARIANTS[variant]}" / "seed-0"


def test_the_table_has_kinds_of_answers_floors_and_printed_rows(finished: Path) -> None:
    cells = pd.read_csv(finished / RESULTS / "tables" / "pang_table5a.csv")
    ours = cells[cells["seeds"] > 0]
    columns = ["overall", "yes/no", "number", "other"]
    assert ours.drop_duplicates("column_index")["column"].tolist() == 2 * columns
    assert ours["kind"].value_counts().to_dict() == {
        "value": 3 * 8, "gain": 8, "item test": 2, "item test, Holm": 2,
    }  # fmt: skip
    assert ours["paper"].isna().all()
    quoted = cells[cells["seeds"] == 0].set_index(["row", "column"])["paper"]
    assert quoted["METER +LLaMA on test-dev", "overall"] == 70.23
    assert set(cells.loc[cells["seeds"] == 0, "group"]) == {"VQAv2"}


@pytest.mark.parametrize("data", ["vqav2", "questions"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_run_is_scored_on_every_question_and_measured(
    finished: Path, data: str, variant: str
) -> None:
    place = place_of(finished, data, variant)
    scores = read_table(SCORES, place / "scores.csv").query("metric == 'vqa'").set_index("set")
    assert scores["items"].to_dict() == {"test": 45, "yes-no": 18, "number": 9, "other": 18}
    parts = scores.drop("test")
    whole = (parts["value"] * parts["items"]).sum() / 45
    assert scores.loc["test", "value"] == pytest.approx(whole, rel=1e-6)
    items = pd.read_parquet(place / "predictions.parquet")
    assert items["vqa"].mean() == pytest.approx(whole, rel=1e-6)
    assert set((10 * items["vqa"]).round()) <= {0, 3, 6, 9, 10}
    gsnr = read_table(GSNR, place / "gsnr.csv")
    assert set(gsnr["block"]) == {0, 1}
    assert (gsnr["noise"] > 0).all()


def test_settings_starts_and_answers_are_kept_with_a_run(finished: Path) -> None:
    place = place_of(finished, "vqav2", "insert")
    config = json.loads((place.parent / "config.json").read_text())
    assert config["recipe"]["betas"] == [0.9, 0.98]
    assert config["recipe"]["lr_factors"][0] == [r"^bridge\.", 10.0]
    assert (config["data"]["answers"], config["data"]["words"]) == (8, 64)
    starts = read_note(place / "history.csv")["provenance"]["facts"]["starts"]
    assert [Path(file).parent.name for file in starts] == ["clip", "roberta"]
    notes = read_note(finished / RESULTS / "data" / "vqav2" / "manifest.csv")
    with safe_open(place / "model.safetensors", framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
    assert facts["label_order"] == notes["provenance"]["facts"]["classes_sha256"]


def test_files_and_drawings_are_the_same_questions(finished: Path) -> None:
    files, drawn = (
        pd.read_csv(finished / RESULTS / "data" / name / "manifest.csv", dtype=str)
        for name in ("vqav2", "questions")
    )
    assert files.drop(columns="source").equals(drawn.drop(columns="source"))
    assert files["source"].iloc[5] == "train2014/COCO_train2014_000000000007.jpg"
