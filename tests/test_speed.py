import json

import pytest
import torch

from rectify.__main__ import main
from rectify.analysis.collect import collect_costs
from rectify.cost import LANGUAGES, flops, parameters
from rectify.records import COST, read_note, read_table
from rectify.speed import VARIANTS, _shapes, _training_flops, measure

SMALL = {
    "image_size": 28, "channels": 1, "classes": 10, "final_norm": "unit", "batch_size": 3,
}  # fmt: skip
VISION = {
    "timm": "vit_tiny_patch16_224",
    "overrides": {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 14},
}
CPU = torch.device("cpu")
TINY = {
    "model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2,
    "num_hidden_layers": 1,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    return str(tmp_path / "tiny")


def papers_model(variant: str) -> torch.nn.Module:
    return _shapes(variant, {"timm": "vit_small_patch16_224"}, "llama-7b", 224, 3, 1000, "unit")


def test_the_papers_models_have_its_counts_in_both_variants():
    plain, inserted, auxiliary = map(papers_model, VARIANTS)
    assert parameters(plain) == parameters(auxiliary.vit) == 22_050_664
    assert parameters(inserted) == parameters(auxiliary) == 227_579_752
    assert sum(p.numel() for p in inserted.parameters() if p.requires_grad) == 25_196_392
    assert f"{flops(plain, 224)['paper'] / 1e9:.4f}" == "8.5013"
    assert f"{flops(inserted, 224)['paper'] / 1e9:.4f}" == "90.1124"


def test_a_training_step_of_the_papers_models_costs_seven_times_the_plain_one():
    steps = [_training_flops(papers_model(variant), (3, 224, 224)) for variant in VARIANTS]
    assert [round(step / 1e9, 1) for step in steps] == [27.5, 192.6, 192.6]
    head = 2 * 3 * 384 * 1000  # the auxiliary path runs head and its backward pass once more
    assert steps[2] - steps[1] == head


def test_training_flops_are_written_out_by_hand(folder):
    """Each matrix once forward, once for its input and once for itself; a frozen one not."""
    tokens, dim, width, depth, heads = 5, 16, 24, 2, 10
    trained = 4 * 14 * 14 * dim + depth * tokens * 12 * dim**2 + dim * heads
    bridge = tokens * 2 * dim * width
    frozen = tokens * (4 * width**2 + 3 * width * 40)
    model = _shapes("insert", VISION, folder, 28, 1, 10, "unit")
    attention = 2 * tokens**2 * (depth * dim + width)  # multiply-adds, forward
    first = 4 * 14 * 14 * dim  # images need no gradient
    forward = 2 * (trained + bridge + frozen + attention)
    backward = 2 * (2 * (trained + bridge) - first + frozen + 2 * attention)
    assert _training_flops(model, (1, 28, 28)) == forward + backward


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_has_every_number(folder, variant, precision):
    row = measure(variant, VISION, folder, **SMALL, precision=precision, device=CPU)
    assert list(row) == COST.names
    assert all(row[name] > 0 for name in COST.names[1:])
    kept = row["parameters"] if variant == "insert" else row["trained_parameters"]
    adapters = 2 * 16 * 24 if variant == "auxiliary" else 0
    assert row["test_parameters"] == kept - adapters


def test_the_command_writes_one_row_per_variant(folder, tmp_path, monkeypatch, restored_runtime):
    monkeypatch.delenv("RECTIFY_WARM", raising=False)
    settings = {
        "vision": {"title": "ViT", **VISION},
        "language": {"name": "tiny", "title": "Tiny"},
        "data": {"image_size": 28, "channels": 1, "classes": 10},
        "batch_size": 2,
        "training": {"recipe": "paper"},
        "final_norm": "unit",
    }
    output = tmp_path / "cost.csv"
    words = ("--settings", json.dumps(settings), "--checkpoint", folder, "--threads", "1")
    assert main(["measure", *words, "--output", str(output)]) == 0
    assert sorted(read_table(COST, output)["variant"]) == sorted(VARIANTS)
    facts = read_note(output)["provenance"]["facts"]
    assert (facts["batch_size"], facts["precision"], facts["device_type"]) == (2, "float32", "cpu")
    assert set(collect_costs([output])["language_title"]) == {"Tiny"}


def test_every_language_model_of_the_paper_is_known_without_its_folder(capsys, tmp_path):
    wanted = {"llama-7b", "opt-350m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "bloomz-560m"}
    assert wanted | {"bloomz-1.1b", "bloomz-3b", "bloomz-7.1b"} <= set(LANGUAGES)
    for name in sorted(wanted):
        model = _shapes("insert", VISION, name, 28, 1, 10, "unit")
        assert parameters(model) > 1e6
