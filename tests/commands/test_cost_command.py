import json
from pathlib import Path

import pytest
import yaml
from transformers import LlamaConfig

from rectify.__main__ import main
from rectify.controls import VARIANTS
from rectify.experiment.grid import read
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.work import count, subject
from rectify.results.declared import COST
from rectify.results.tables import read_note, read_table
from tests.helpers.question_trees import SIZES as METER

PAPER = ("--vision", "vit_small_patch16_224", "--language", "llama-7b", "--position", "end")
SMALL = ("--vision", "vit_tiny_patch16_224", "--language", "opt-125m", "--position", "6")
SIZES = {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 14}
SETTINGS = {
    "vision": "vit-16",
    "task": "image_classification",
    "entry": {"image_size": 28, "channels": 1, "classes": 10},
    "trunk": {"name": "vit-16", "timm": "vit_tiny_patch16_224", "overrides": SIZES},
    "language": "tiny",
    "batch_size": 2,
    "precision": "bfloat16",
    "final_norm": "unit",
}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("restored_runtime")]


@pytest.fixture(autouse=True)
def no_warm_server(monkeypatch):
    monkeypatch.delenv("RECTIFY_WARM", raising=False)


@pytest.fixture
def folder(tmp_path):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
    LlamaConfig(**sizes).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_the_papers_numbers_as_json(capsys):
    assert main(["cost", *PAPER, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parameters"] == {"vision": 22_050_664, "rectified": 227_579_752}
    assert answer["flops"]["vision"] == pytest.approx(8.5013e9, abs=5e4)
    assert answer["flops"]["rectified"] == pytest.approx(90.1124e9, abs=5e4)
    assert [row["variant"] for row in answer["variants"]] == list(VARIANTS)
    assert "test_images_per_second" not in answer["variants"][0]


DRAWN = {
    "results": "results",
    "seeds": [0],
    "data": {
        "questions": {
            "task": "visual_question_answering",
            "reader": "questions",
            "image_size": 56,
            "answers": 7,
            "words": 64,
        },
        "lanes": {"task": "motion_forecasting", "reader": "lanes"},
    },
    "visions": {
        "meter": {"title": "METER", "timm": "none", "overrides": METER},
        "vectornet": {"title": "VN", "timm": "none", "overrides": {"width": 4, "layers": 2}},
    },
    "experiments": {"one": {"data": "questions", "vision": "meter"}},
}


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> tuple[str, ...]:
    """Options that name a small configuration."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(DRAWN))
    return ("--config", "mine.yaml", "--json")


def test_a_set_of_any_task_is_counted_and_timed(capsys, drawn, folder):
    words = (*drawn, "--language", f"{folder}")
    asked = ("--data", "questions", "--vision", "meter", "--position", "1")
    assert main(["cost", *asked, *words]) == 0
    variants = json.loads(capsys.readouterr().out)["variants"]
    assert [row["variant"] for row in variants] == list(VARIANTS)
    counted = count(subject(Plan(read(DRAWN)), Run("questions", "meter"))).flops
    assert variants[0]["training_flops"] == counted.training
    assert variants[0]["flops_matmuls_with_attention"] == counted.test
    scenes = ("--data", "lanes", "--vision", "vectornet", "--threads", "1", "--time")
    assert main(["cost", *scenes, *words]) == 0
    variants = json.loads(capsys.readouterr().out)["variants"]
    assert all(row["training_images_per_second"] > 0 for row in variants)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--data", "question", "--vision", "meter"), "cost: --data: must be a set of the config"),
        (("--data", "questions", "--vision", "met"), "cost: --vision: must be a vision of the"),
        (("--data", "questions"), "cost: --vision: must be a vision of the configuration"),
        (
            ("--data", "questions", "--vision", "meter", "--classes", "3"),
            "cost: classes must be that of the set, got 3",
        ),
    ],
)
def test_a_mistake_next_to_a_set_is_one_line(words, error, capsys, drawn):
    assert main(["cost", *words, *drawn, "--language", "opt-125m"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(error)
    assert said.count("\n") == 1


def test_the_papers_numbers_as_a_table(capsys):
    assert main(["cost", *PAPER]) == 0
    cells = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert list(cells) == COST.names[:8]
    assert cells["variant"] == list(VARIANTS)
    assert cells["parameters"] == ["22,050,664", *3 * ["227,579,752"]]
    assert [cell[:6] for cell in cells["flops"]] == ["8,501,", "90,112", "90,112", "8,501,"]


def test_speed_is_measured_where_it_is_asked_for(folder, capsys):
    models = ("--vision", "vit_tiny_patch16_224", "--language", f"{folder}", "--position", "6")
    small = ("--image-size", "32", "--classes", "10", "--threads", "1", "--time")
    assert main(["cost", *models, *small, "--json"]) == 0
    variants = json.loads(capsys.readouterr().out)["variants"]
    assert [list(row) for row in variants] == [COST.names] * len(VARIANTS)
    assert all(row["training_images_per_second"] > 0 for row in variants)


def written(folder, output) -> int:
    words = ("--settings", json.dumps(SETTINGS), "--checkpoint", str(folder), "--threads", "1")
    return main(["cost", "--time", *words, "--output", str(output)])


def test_the_settings_of_a_config_give_a_table_with_one_row_per_variant(folder, tmp_path):
    assert written(folder, tmp_path / "cost.csv") == 0
    table = read_table(COST, tmp_path / "cost.csv").set_index("variant")
    assert sorted(table.index) == sorted(VARIANTS)
    adapters, layer = 2 * 16 * 24, 4 * 24**2 + 3 * 24 * 40 + 2 * 24
    extra = table.loc["insert", "parameters"] - table.loc["vanilla", "parameters"]
    assert extra == adapters + layer
    facts = read_note(tmp_path / "cost.csv")["provenance"]["facts"]
    assert facts == {**SETTINGS, "position": "end", "device_type": facts["device_type"]}


def test_a_setting_that_nothing_takes_is_one_line(capsys):
    assert main(["cost", *SMALL, "--settings", '{"batch_sise": 8}']) == 2
    said = capsys.readouterr().err
    assert "cost: --settings: must be a setting" in said
    assert "got 'batch_sise'. Did you mean batch_size?" in said


def test_a_known_model_needs_no_folder(tmp_path, capsys):
    assert written(tmp_path / "absent", tmp_path / "cost.csv") == 2
    assert "cost: language: must be a known model, the folder" in capsys.readouterr().err


def test_a_table_is_written_only_with_all_its_columns(tmp_path, capsys):
    assert main(["cost", *SMALL, "--output", str(tmp_path / "cost.csv")]) == 2
    assert capsys.readouterr().err.startswith("cost: --output must come with --time")
    assert not (tmp_path / "cost.csv").exists()


def test_a_misspelt_name_is_one_line_and_status_2(capsys):
    assert main(["cost", *PAPER, "--language", "llama7b"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("cost: language: must be a known model")
    assert "llama-7b" in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")
