import pytest
import torch
from transformers import LlamaConfig

from rectify.controls import VARIANTS
from rectify.cost import build, of_images
from rectify.speed import fill, measure, variants
from tests.helpers.designs import clips

CPU = torch.device("cpu")
TOY = {
    "image_size": 28, "channels": 1, "classes": 10,
    "overrides": {"embed_dim": 16, "num_heads": 2, "depth": 2, "patch_size": 14},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
    LlamaConfig(**sizes).save_pretrained(tmp_path)
    return f"{tmp_path}"


@pytest.fixture
def design(folder):
    return of_images("vit_tiny_patch16_224", folder, **TOY)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_number_is_measured(design, variant, precision):
    speed = measure(design, variant, batch_size=3, precision=precision, device=CPU)
    assert all(value > 0 for value in speed)
    assert speed.test_images_per_second > speed.training_images_per_second / 100


def test_a_path_that_is_dropped_at_test_costs_nothing_there(design):
    how = {"batch_size": 2, "precision": "float32", "device": CPU}
    rows = {row["variant"]: row for row in variants(design, is_timed=True, **how)}
    plain, auxiliary, inserted = (rows[name] for name in ("vanilla", "auxiliary", "insert"))
    for name in ("test_parameters", "flops", "test_images_per_second", "test_peak_bytes"):
        assert auxiliary[name] == plain[name]
    assert inserted["flops"] > plain["flops"]
    assert auxiliary["training_images_per_second"] != plain["training_images_per_second"]


def test_clips_are_measured(folder):
    design = clips("vit_tiny_patch16_224", folder, 4, image_size=32, classes=10)
    speed = measure(design, "insert", batch_size=2, precision="float32", device=CPU)
    assert all(value > 0 for value in speed)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_weight_is_written_before_anything_is_timed(design, variant):
    model = build(design, variant)
    fill(model.trained, "bfloat16", CPU)
    for name, parameter in model.trained.named_parameters():
        assert parameter.device.type == "cpu"
        assert 0 < parameter.abs().max() < 0.0201  # rounded
        frozen_matrix = ".decoder." in name and parameter.ndim > 1
        assert parameter.dtype == (torch.bfloat16 if frozen_matrix else torch.float32)
        assert parameter.requires_grad == (".decoder." not in name)
    assert all(p.device.type == "cpu" for p in model.tested.parameters())


def test_too_little_memory_is_one_line(monkeypatch, design):
    monkeypatch.setattr("rectify.speed.os.sysconf", lambda name: 100)
    with pytest.raises(ValueError, match=r"got 0\.0 GB\. Use a larger machine") as caught:
        measure(design, "insert", batch_size=1, precision="float32", device=CPU)
    assert "\n" not in str(caught.value)


def test_a_batch_without_images_is_refused(design):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        measure(design, "insert", batch_size=0, precision="float32", device=CPU)
