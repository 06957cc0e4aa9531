"""Jobs on GPUs that are no training: against what they compute when they run."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rectify.controls import VARIANTS
from rectify.cost import counts, design_from
from rectify.experiment.clock import COST_STEPS, MASKED_BATCH, RULES, Clock, Time
from rectify.experiment.grid import cost_settings, read
from rectify.experiment.plan import Plan
from rectify.experiment.run import Run
from rectify.experiment.speeds import load
from rectify.experiment.storage import storage
from rectify.experiment.work import CAPTION, Flops, Launches, Reader, Subject, Work, count, subject
from rectify.filtering import measure
from rectify.language.captions import caption_features
from rectify.speed import PASSES
from rectify.trunks.features import vision_features
from rectify.trunks.vit import create_vit
from tests.helpers.configs import DEMO, PAPER
from tests.helpers.tiny_checkpoints import FAMILIES, LAYERS, made_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PAIRS = 1_024  # of WIT
VIT = {"embed_dim": 16, "num_heads": 2, "depth": 1, "patch_size": 112}
"""Of four patches."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}")
    monkeypatch.chdir(tmp_path)


def time(plan: Plan, rule: str, **words: str) -> Time:
    """Return the time of a job, where a launch takes so little that products decide."""
    speeds = load(None).model_copy(update={"launch_seconds": 1e-15})
    return Clock(plan, speeds, "H100", counted).time(rule, words)


def counted(what: Subject | Reader) -> Work:
    """Return the work of small models; the large ones that were timed are given."""
    if isinstance(what, Reader) or what.vision["overrides"].get("embed_dim"):
        return count(what)
    trunk = 10**10 if what.entry["image_size"] == 224 else 10**9
    each = Flops(trunk * (6 if what.language else 1), trunk, trunk, trunk)
    return Work(each, *[0] * 6, Launches(1, 1, 1))


def seconds(products: float) -> float:
    """Return the time of products in float32: 67 TFLOP/s by its maker."""
    best = max(
        step.items_per_second * counted(step.subject()).flops.training for step in load(None).steps
    )
    return products / (67e12 * 766 / 989 * best / 766e12)


def small(has_language: bool = True, **imagenet: object) -> Plan:
    """Return a plan of a small ViT and a small language model."""
    data = {name: PAPER["data"][name] for name in ("imagenet", "wit", "cap3d")}
    data["imagenet"] = data["imagenet"] | {"masks": "data/imagenet-s-50"} | imagenet
    experiments = {"one": {"data": "imagenet", "vision": "vit-s"}}
    if has_language:
        made_checkpoint(Path("tiny"), **FAMILIES["llama"])
    values = {
        **{key: PAPER[key] for key in ("similarity", "results", "device_gpus", "training")},
        "seeds": [0],
        "data": data,
        "visions": {"vit-s": {"title": "S", "timm": "vit_small_patch16_224", "overrides": VIT}},
        "languages": {"tiny": {"title": "L", "checkpoint": "tiny", "layers": LAYERS}},
        "experiments": experiments,
        "targets": {"cost": PAPER["targets"]["cost"] | {"visions": "vit-s", "languages": "tiny"}},
    }
    return Plan(read(values))


def test_every_job_of_the_workflow_that_asks_for_a_gpu_has_a_time() -> None:
    texts = [file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk")]
    rules = re.split(r"^rule ", "\n".join(texts), flags=re.M)
    on_gpus = [text.partition(":")[0] for text in rules if re.search(r"^ +gpu=", text, re.M)]
    assert sorted(on_gpus) == sorted(RULES)
    assert all(callable(getattr(Clock, rule)) for rule in RULES)


@pytest.mark.slow
def test_features_of_captions_take_the_products_of_every_layer() -> None:
    plan = small()
    texts = [letter * (CAPTION - 1) for letter in "abc"]  # behind a token that begins each
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        layers, _ = caption_features("tiny", texts, 2)
    found = time(plan, "language_features", pairs="wit", language="tiny")
    each = seconds(PAIRS * counter.get_total_flops() / len(texts))
    assert found.basis == "counted"
    assert found.seconds == pytest.approx(each, rel=0.01)  # of positions' angles
    assert found.seconds <= each * (1 + 1e-9)
    work = count(Reader("tiny", Path("tiny", "config.json").read_text()))
    assert (work.blocks, work.width) == (len(layers), layers.shape[2])


def test_features_of_images_take_the_products_of_every_block_and_no_head() -> None:
    model = create_vit("vit_tiny_patch16_224", num_classes=1_000, image_size=224, overrides=VIT)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        vision_features(model, [torch.zeros(2, 3, 224, 224)])
    products = PAIRS * counter.get_total_flops() / 2
    run = Run("imagenet", "vit-s").name
    for head, words in (
        (1_000, {"rule": "pretrained_features", "vision": "vit-s"}),
        (1_000, {"rule": "vision_features", "run": run, "seed": "1"}),
    ):
        found = time(small(), pairs="wit", **words)
        assert found.basis == "counted"
        assert found.seconds == pytest.approx(seconds(products + PAIRS * 2 * 16 * head))


def test_a_pass_takes_no_less_than_to_start_its_operators() -> None:
    speeds = load(None).model_copy(update={"launch_seconds": 1.0})
    clock = Clock(small(), speeds, "H100", counted)
    found = clock.time("pretrained_features", {"pairs": "wit", "vision": "vit-s"})
    started = count(subject(small(), Run("imagenet", "vit-s"))).launches.test
    assert found.seconds == pytest.approx(sum(float(started) for _ in range(0, PAIRS, 16)))


def test_activations_take_a_pass_over_every_item_with_a_mask_in_float32() -> None:
    assert measure.BATCH == MASKED_BATCH
    plan, run = small(), Run("imagenet", "vit-s")
    layered = replace(run, variant="insert", language="tiny", layer=2, position="end")
    design = design_from({"vision": "vit_small_patch16_224", "language": "tiny", "overrides": VIT})
    for one in (run, layered):
        products = 752 * counts(design, one.variant).flops_matmuls_with_attention
        found = time(plan, "filtering", run=one.name, seed="0")
        assert (found.basis, found.seconds) == ("counted", pytest.approx(seconds(products)))


@pytest.mark.slow
def test_a_measured_cost_takes_every_step_that_is_timed_and_the_first() -> None:
    assert COST_STEPS == 1 + PASSES
    plan = small(training={"precision": "float32", "batch_size": 16})
    settings = cost_settings(plan.config, "vit-s", "tiny")
    design, now = design_from(settings, Path("tiny")), 0.0
    for variant in VARIANTS:
        products = counts(design, variant)
        for _ in range(1 + PASSES):
            now += seconds(64 * products.training_flops)
            now += seconds(64 * products.flops_matmuls_with_attention)
    found = time(plan, "measure", vision="vit-s", language="tiny")
    assert (found.basis, found.seconds) == ("counted", pytest.approx(now))
    assert time(small(), "measure", vision="vit-s", language="tiny").basis == "scaled"


@pytest.mark.parametrize(
    ("rule", "words", "note"),
    [
        ("language_features", {"pairs": "cap3d", "language": "tiny"}, "the items of cap3d are"),
        ("language_features", {"pairs": "wit", "language": "tiny"}, "a known model"),
        ("filtering", {"run": "imagenet_vit-s_vanilla"}, "the masks of imagenet are counted"),
    ],
)
def test_what_is_not_known_is_said(rule: str, words: dict[str, str], note: str) -> None:
    plan = small(words.get("pairs") == "cap3d", full=False)
    found = time(plan, rule, **words)
    assert (found.seconds, found.basis) == (None, "unknown")
    assert note in found.note


def test_a_language_model_that_a_job_will_make_is_said_and_stores_nothing_yet() -> None:
    plan = Plan(read(DEMO | {"device_gpus": 1}))
    language, words = plan.made_here[0], {"pairs": "glyph-names", "language": plan.made_here[0]}
    run = Run("glyphs", "vit-64", "insert", language=language, layer=0, position="end")
    for rule, named in (("language_features", words), ("filtering", {"run": run.name})):
        found = time(plan, rule, **named)
        assert found.note == f"{language} is counted once pretrain has made it"
    assert storage(plan, [("language_features", words)], [], counted).features == 0
