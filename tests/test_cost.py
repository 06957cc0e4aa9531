import pytest
import torch
from transformers import LlamaConfig

from rectify.cost import LANGUAGES, cost, flops, language_config, parameters
from rectify.language import empty_block
from rectify.vision import create_vit

PAPER = {"image_size": 224, "classes": 1000, "batch_size": 1}
SMALL = {"image_size": 32, "classes": 10, "batch_size": 2}


@pytest.fixture(scope="module")
def papers():
    return cost("vit_small_patch16_224", "llama-7b", "end", **PAPER)


def test_the_papers_parameters_are_counted_exactly(papers):
    assert papers["parameters"] == {"vision": 22_050_664, "rectified": 227_579_752}


@pytest.mark.parametrize(("size", "count"), [("tiny", 5_717_416), ("base", 86_567_656)])
def test_other_vits_are_counted_exactly(size, count):
    with torch.device("meta"):
        vit = create_vit(f"vit_{size}_patch16_224", num_classes=1000, image_size=224)
    assert parameters(vit) == count


def test_the_papers_flops_come_out_to_the_digit(papers):
    assert f"{papers['flops']['vision'] / 1e9:.4f}" == "8.5013"
    assert f"{papers['flops']['rectified'] / 1e9:.4f}" == "90.1124"


def test_flops_equal_the_sum_that_is_written_out_by_hand(papers):
    tokens, dim, depth, width, mlp = 197, 384, 12, 4096, 11008
    block = tokens * (3 * dim * dim + dim * dim + 2 * dim * 4 * dim)
    vision = 196 * dim * 3 * 16**2 + depth * block + dim * 1000
    bridge = tokens * (2 * dim * width + 4 * width * width + 3 * width * mlp)
    norms, products = 5 * 25 * tokens * dim, 2 * tokens**2
    assert papers["flops"] == {
        "vision": 2 * (vision + norms),
        "rectified": 2 * (vision + norms + bridge + products * width),
        "conventions": {
            "matmuls_without_attention": {"vision": 2 * vision, "rectified": 2 * (vision + bridge)},
            "matmuls_with_attention": {
                "vision": 2 * (vision + depth * products * dim),
                "rectified": 2 * (vision + depth * products * dim + bridge + products * width),
            },
        },
    }


@pytest.mark.parametrize(
    ("size", "dim", "count"), [("small", 384, 21_946_926), ("base", 768, 86_361_006)]
)
def test_videomae_at_16_frames_is_counted_exactly_and_by_hand(size, dim, count):
    clips = {"image_size": 224, "classes": 174, "batch_size": 1, "frames": 16}
    answer = cost(f"vit_{size}_patch16_224", "llama-7b", "end", **clips)
    tokens, depth, width, mlp = 8 * 14 * 14, 12, 4096, 11008
    adapters = 2 * dim * width
    assert answer["parameters"] == {"vision": count, "rectified": count + adapters + 202_383_360}
    embedding = tokens * dim * 2 * 3 * 16**2
    vision = embedding + depth * tokens * 12 * dim * dim + dim * 174
    attention = 2 * tokens**2
    block = tokens * (adapters + 4 * width * width + 3 * width * mlp)
    counts = answer["flops"]["conventions"]
    assert counts["matmuls_without_attention"] == {
        "vision": 2 * vision,
        "rectified": 2 * (vision + block),
    }
    assert counts["matmuls_with_attention"] == {
        "vision": 2 * (vision + depth * attention * dim),
        "rectified": 2 * (vision + depth * attention * dim + block + attention * width),
    }
    norms = 5 * (2 * depth * tokens + 1) * dim  # the last one is of the mean alone
    assert answer["flops"]["vision"] == 2 * (vision + norms)


def test_a_clip_is_timed_where_a_device_is_given():
    clips = SMALL | {"frames": 4, "batch_size": 1}
    answer = cost("vit_tiny_patch16_224", "opt-125m", "end", **clips, device=torch.device("cpu"))
    assert all(seconds > 0 for seconds in answer["seconds_per_image"].values())


@pytest.mark.parametrize("language", ["llama3-8b", "opt-125m", "opt-350m", "bloomz-560m"])
def test_every_family_is_counted_layer_by_layer(language):
    """The oracle: outputs of each linear, and two products of all tokens per attention."""
    config = language_config(language)
    width, tokens, dim = config.hidden_size, 5, 192
    block = empty_block(config, language)
    matrices = sum(p.numel() for p in block.parameters() if p.ndim == 2)
    norms = sum(isinstance(part, torch.nn.LayerNorm) for part in block.modules())
    answer = cost("vit_tiny_patch16_224", language, "middle", **SMALL)["flops"]
    linear = 2 * tokens * (matrices + 2 * dim * width)
    attention, norm = 4 * tokens**2 * width, 10 * tokens * width * norms
    assert answer["rectified"] - answer["vision"] == linear + attention + norm
    for kind, extra in (("without", 0), ("with", attention)):
        counts = answer["conventions"][f"matmuls_{kind}_attention"]
        assert counts["rectified"] - counts["vision"] == linear + extra


def test_neither_position_nor_batch_size_changes_the_counts():
    one = cost("vit_tiny_patch16_224", "opt-125m", "early", **SMALL)
    assert cost("vit_tiny_patch16_224", "opt-125m", 12, **SMALL | {"batch_size": 1}) == one


def test_every_known_language_model_has_a_block():
    sizes = {name: parameters(empty_block(language_config(name), name)) for name in LANGUAGES}
    assert sizes["llama-7b"] == sizes["llama2-7b"] == 202_383_360
    assert sizes["opt-6.7b"] == sizes["bloomz-7.1b"] == 12 * 4096**2 + 13 * 4096
    assert len(sizes) == len(LANGUAGES)


def test_whole_models_have_the_size_in_their_names():
    """Blocks and embeddings; the published names are rounded."""
    for name, embedded in (("llama", 2 * 32_000), ("opt", 50_272 + 2_050), ("bloomz", 250_880)):
        for known in (known for known in LANGUAGES if known.startswith(f"{name}-")):
            config = language_config(known)
            blocks = config.num_hidden_layers * parameters(empty_block(config, known))
            total = blocks + embedded * config.hidden_size
            number, unit = float(known.rpartition("-")[2][:-1]), known[-1]
            assert total == pytest.approx(number * {"m": 1e6, "b": 1e9}[unit], rel=0.07), known


def test_a_checkpoints_folder_is_a_language_model_too(tmp_path):
    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    answer = cost("vit_tiny_patch16_224", f"{tmp_path}", "end", **SMALL)
    extra = answer["parameters"]["rectified"] - answer["parameters"]["vision"]
    assert extra == 4 * 64**2 + 3 * 64 * 96 + 2 * 64 + 2 * 192 * 64


def test_seconds_are_measured_where_a_device_is_given():
    device = torch.device("cpu")
    answer = cost("vit_tiny_patch16_224", "opt-125m", "end", **SMALL, device=device)
    assert answer["seconds_per_image"].keys() == {"vision", "rectified"}
    assert all(seconds > 0 for seconds in answer["seconds_per_image"].values())
    counted = cost("vit_tiny_patch16_224", "opt-125m", "end", **SMALL)
    assert counted == answer | {"seconds_per_image": None}


def test_too_little_memory_is_one_line(monkeypatch):
    monkeypatch.setattr("rectify.cost.os.sysconf", lambda name: 1000)
    with pytest.raises(ValueError, match=r"got 0\.0 GB\. Give --no-measure") as caught:
        cost("vit_tiny_patch16_224", "opt-125m", "end", **SMALL, device=torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vision", "language", "position", "sizes", "expected"),
    [
        ("vit_smal_patch16_224", "llama-7b", "end", {}, "vit_small_patch16_224"),
        ("vit_small_patch16_224", "lama-7b", "end", {}, "Near names: llama-7b"),
        ("vit_small_patch16_224", "?", "end", {}, "Near names: llama-7b, .*bloomz-7.1b"),
        ("vit_small_patch16_224", "llama-7b", "ende", {}, r"early, middle, end or 0\.\.12"),
        ("vit_small_patch16_224", "llama-7b", 13, {}, r"early, middle, end or 0\.\.12"),
        ("vit_small_patch16_224", "llama-7b", "end", {"image_size": 225}, "multiple of patch_size"),
        ("vit_small_patch16_224", "llama-7b", "end", {"batch_size": 0}, "at least 1, got 0"),
        ("vit_small_patch16_224", "llama-7b", "end", {"frames": 0}, "frames must be at least 1"),
        ("vit_small_patch16_224", "llama-7b", "end", {"frames": 3}, "a multiple of 2, got 3"),
    ],
)
def test_mistakes_are_one_line(vision, language, position, sizes, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        cost(vision, language, position, **PAPER | sizes)
    assert "\n" not in str(caught.value)


def test_flops_of_a_plain_vit_leave_no_hooks_behind():
    with torch.device("meta"):
        vit = create_vit("vit_tiny_patch16_224", num_classes=10, image_size=32)
    assert flops(vit, 32) == flops(vit, 32)
    assert not any(part._forward_hooks for part in vit.modules())
