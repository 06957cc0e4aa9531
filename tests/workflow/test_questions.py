"""Table 5a of Pang et al. through its readers, on generated files; and drawn questions."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open

from rectify.data.questions import load_questions
from rectify.demo.captions import captions
from rectify.demo.questions import questions
from rectify.results.declared import GSNR, SCORES
from rectify.results.tables import read_note, read_table
from rectify.targets.answers import VALUES
from rectify.tasks.visual_question_answering.prepare import prepare
from rectify.tasks.visual_question_answering.settings import Settings
from tests.helpers import caption_trees, question_trees
from tests.workflow.project import ROOT, copy_project, warm

CONFIG = ("demo-pang.yaml", "tests/questions.yaml")
RESULTS = Path("results") / "questions"
SIZES = {"train_scenes": 30, "test_scenes": 9}
RETRIEVAL = ("pang_table5a_retrieval", "retrieval")
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
    drawn = captions(image_size=56, train_items=8, test_items=6)
    caption_trees.write(project / "data" / "flickr30k", "flickr30k", drawn)
    start = question_trees.write_starts(
        project / "models" / "meter", image_size=56, patch_size=28, words=64
    )
    keys = {"reader": "questions", "image_size": 56, "answers": 8, "words": 64, "sizes": SIZES}
    prepare("toy", Settings.model_validate(keys), None, 1).words.save(
        f"{start / 'roberta' / 'tokenizer.json'}"
    )
    asked = ("pang_table5a", "questions", "answers", *RETRIEVAL)
    said = warm(project, "--configfile", *CONFIG, "--", *asked)
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


def test_a_figure_shows_questions_answers_and_activations(finished: Path) -> None:
    values = read_table(VALUES, finished / RESULTS / "figures" / "answers.csv")
    drawn = questions(**SIZES)["test"].questions
    assert set(values["item"]) == {44, 6}
    assert len(values) == 2 * len(VARIANTS) * 4
    scored = load_questions(finished / RESULTS / "data" / "vqav2", "test")
    right = scored.dense(scored.accuracies, torch.arange(45))
    for (run, item), rows in values.groupby(["run", "item"]):
        path = finished / RESULTS / "runs" / run / "seed-0" / "predictions.parquet"
        kept = pd.read_parquet(path).set_index("item").loc[item]
        first = rows.iloc[0]
        assert (first["question"], first["truth"]) == (drawn[item].text, drawn[item].most)
        answer = scored.answers.index(first["answer"])
        assert kept["answer"].tolist() == [answer]
        assert first["accuracy"] == pytest.approx(right[item, answer].item())
        assert kept["vqa"] == pytest.approx(right[item, answer].item())
        assert rows["value"].tolist() == pytest.approx(kept["activations"].tolist())
        assert (rows["value"].min(), rows["value"].max()) == (0, 1)


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_caption_finds_its_image_among_all_and_every_image_its_captions(
    finished: Path, variant: str
) -> None:
    place = place_of(finished, "flickr30k", variant)
    scores = read_table(SCORES, place / "scores.csv").set_index(["set", "metric"])
    items = pd.read_parquet(place / "predictions.parquet")
    assert len(items) == 30
    for name, count in (("test", 30), ("texts", 6)):
        recalls = [scores.loc[(name, f"recall_at_{k}")] for k in (1, 5, 10)]
        assert {row["items"] for row in recalls} == {count}
        shares = [row["value"] for row in recalls]
        assert shares == sorted(shares)
        assert all(round(count * share) == pytest.approx(count * share) for share in shares)
        if name == "test":
            means = [items[f"recall_at_{k}"].mean() for k in (1, 5, 10)]
            assert shares == pytest.approx(means, rel=1e-6)
            assert shares[2] == 1  # there are six
    gsnr = read_table(GSNR, place / "gsnr.csv")
    assert set(gsnr["block"]) == {0, 1}
    assert (gsnr["noise"] > 0).all()


def test_recall_is_next_to_the_printed_one(finished: Path) -> None:
    cells = pd.read_csv(finished / RESULTS / "tables" / "pang_table5a_retrieval.csv")
    kinds = cells["kind"].value_counts().to_dict()
    assert kinds["value"] == 2 * 6 + 3
    assert kinds["gain"] == 6
    assert kinds["item test"] == 3  # scores of single images are not kept
    assert set(cells["group"]) == {"Flickr30k"}
