import subprocess
import sys

import pytest
from timm.data import create_transform

from rectify.training.recipes import RECIPES, Recipe, recipe
from tests.helpers.published_recipes import BASE, FIELDS, OURS, PAPER, PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_values_of_its_public_code_field_by_field(name):
    published, values = PUBLISHED[name], RECIPES[name].model_dump()
    for field in Recipe.model_fields:
        argument = FIELDS.get(field)
        if field in published.written:
            expected = published.written[field]
        elif argument in published.arguments:
            expected = published.arguments[argument]
        else:
            expected = OURS[field]  # KeyError: a field that no list knows
        assert values[field] == expected, f"{field} of {published.source}"


def test_every_argument_that_is_listed_is_compared_with_a_field():
    for published in PUBLISHED.values():
        compared = {*FIELDS.values(), "batch_size", "opt"}  # these two by the code around them
        assert set(published.arguments) <= compared
        assert set(published.written) <= set(Recipe.model_fields)


def test_the_papers_recipe_is_deits_but_for_three_values():
    deit, paper = (RECIPES[name].model_dump() for name in ("deit", "paper"))
    assert {name: value for name, value in paper.items() if value != deit[name]} == PAPER


def test_a_change_leaves_the_named_recipes_as_they_are():
    changed = recipe("deit", epochs=7, batch_size=64)
    assert (changed.epochs, changed.batch_size, changed.lr) == (7, 64, 5e-4)
    assert set(RECIPES) == {"paper", *PUBLISHED}
    assert RECIPES["deit"].epochs == 300


def test_the_learning_rate_follows_the_batch_size():
    assert recipe("deit").scaled_lr == pytest.approx(1e-3)
    assert recipe("deit", batch_size=256).scaled_lr == pytest.approx(2.5e-4)
    assert recipe("deit", batch_size=256, lr_batch_size=None).scaled_lr == 5e-4


def test_videomaes_rates_follow_its_small_batches():
    small, base = recipe("videomae"), recipe("videomae", **BASE)
    assert small.scaled_lr == pytest.approx(9.375e-5)
    assert base.scaled_lr == pytest.approx(2.34375e-5)
    assert small.scaled_min_lr == pytest.approx(1e-6 * 24 / 256)
    assert base.scaled_min_lr == pytest.approx(1e-6 * 12 / 256)
    assert recipe("deit", batch_size=64).scaled_min_lr == 1e-5


def test_a_recipe_comes_back_from_json_with_every_value():
    values = {"schedule": "step", "milestones": [20, 24], "gamma": 0.25, "clip_gradient": 0.1}
    chosen = recipe("deit", **values, lr_factors=[["bridge", 0.5], ["^(?!.*bridge)", 1]])
    assert chosen.milestones == (20, 24)
    assert chosen.lr_factors == (("bridge", 0.5), ("^(?!.*bridge)", 1.0))
    assert Recipe.model_validate_json(chosen.model_dump_json()) == chosen


def test_an_unknown_name_is_one_line_with_the_nearest_right_one():
    with pytest.raises(ValueError, match=r"training\.recipe: .* got 'diet'\. Did you mean deit\?"):
        recipe("diet")
    with pytest.raises(ValueError, match=r"must be known, got 'epoch' at .* Did you mean epochs"):
        recipe("deit", epoch=3)
    with pytest.raises(ValueError, match=r"got 'zzz' at .* Known: epochs, batch_size"):
        recipe("deit", zzz=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 63}, "batch_size must be even with Mixup or CutMix, got 63"),
        ({"epochs": 0}, "training.epochs .* greater than 0, got 0"),
        ({"epochs": True}, "training.epochs .* valid integer, got True"),
        ({"batch_size": 0}, "training.batch_size .* greater than 0, got 0"),
        ({"lr": 0}, "training.lr .* greater than 0, got 0"),
        ({"lr": "4e-3"}, "training.lr .* valid number, got '4e-3'"),
        ({"lr": float("nan")}, "training.lr .* finite number, got nan"),
        ({"epochs": 5}, r"warmup_epochs must be below epochs \(5\), got 5"),
        (
            {"crop": "random"},
            "training.crop .* 'resized', 'centre', 'padded', 'posed' or 'none', got 'random'",
        ),
        ({"crop": "none"}, "crop must be resized, centre or padded with auto_augment, got none"),
        *(
            ({"auto_augment": policy}, f"auto_augment must be rand, augmix.* got {policy}. Correct")
            for policy in ("randaug", "rand-m9-x5", "rand-m", "rand-mm9", "augmix-n2", "v1", "")
        ),
        ({"augment_on": "gpu"}, "training.augment_on .* 'worker' or 'device', got 'gpu'"),
        (
            {"augment_on": "device", "auto_augment": None},
            "augment_on must be worker without auto_augment, got device",
        ),
        ({"betas": [0.9, 1.0]}, r"training.betas.1 .* less than 1, got 1\.0"),
        ({"betas": [0.9]}, "training.betas"),
        ({"schedule": "linear", "gamma": 0.1}, "gamma must be given with schedule step, and only"),
        ({"repeats": 0}, "training.repeats .* greater than 0, got 0"),
        ({"accumulate": 0}, "training.accumulate .* greater than 0, got 0"),
        ({"mixup_mode": "pair"}, "training.mixup_mode .* 'batch' or 'elem', got 'pair'"),
        ({"layer_decay": 1.5}, r"training.layer_decay .* less than or equal to 1, got 1\.5"),
        ({"augment_repeats": 0}, "training.augment_repeats .* greater than 0, got 0"),
        ({"label_smoothing": 1.0}, r"training.label_smoothing .* less than 1, got 1\.0"),
        ({"clip_gradient": 0}, "training.clip_gradient .* greater than 0, got 0"),
        ({"adapter_init": "zeros"}, "training.adapter_init .* got 'zeros'"),
        ({"schedule": "step", "gamma": 0.1}, "milestones must be given with schedule step, and"),
        ({"schedule": "step", "milestones": [9]}, "gamma must be given with schedule step, and"),
        ({"milestones": [9]}, "milestones must be given with schedule step, and only then, got 9"),
        ({"gamma": 0.1}, r"gamma must be given with schedule step, and only then, got 0\.1"),
        (
            {"schedule": "step", "milestones": [9, 3], "gamma": 0.1},
            r"milestones must be in order, and below epochs \(300\), got 9, 3",
        ),
        (
            {"schedule": "step", "milestones": [300], "gamma": 0.1},
            r"milestones must be in order, and below epochs \(300\), got 300",
        ),
        ({"lr_factors": [["(", 1]]}, r"lr_factors must have regular expressions, got '\('"),
        ({"undecayed": ["("]}, r"undecayed must have regular expressions, got '\('"),
        (
            {"undecayed": ["a"], "layer_decay": 0.5},
            r"layer_decay must be null with undecayed, got 0\.5",
        ),
        ({"cloud_scale": 0.5}, r"training.cloud_scale .* greater than or equal to 1, got 0\.5"),
        ({"lr_factors": [["a", 0]]}, "training.lr_factors.0.1 .* greater than 0, got 0"),
        (
            {"lr_factors": [["", 1]], "layer_decay": 0.5},
            r"layer_decay must be null with lr_factors, got 0\.5",
        ),
    ],
)
def test_a_value_that_cannot_be_right_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipe("deit", **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config: training")


def test_an_odd_batch_is_fine_without_mixup():
    assert recipe("deit", batch_size=63, mixup=0, cutmix=0).batch_size == 63
    assert recipe("videomae", batch_size=3).batch_size == 3  # each item is in it twice


def test_recipes_are_known_without_torch():
    code = "import sys, rectify.training.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "policy",
    [
        *("rand", "rand-m7-n4-mstd0.5-inc1", "rand-m3-n2-p1", "rand-mmax8-t3a-p0.5"),
        *("augmix-m5-w4-d2", "augmix-a1.5-b1-mstd2"),
        *("original-mstd0.5", "originalr", "v0", "v0r", "3a"),
    ],
)
def test_timm_knows_each_policy_that_a_recipe_may_have(policy: str) -> None:
    kept = recipe("deit", auto_augment=policy).auto_augment
    assert create_transform(16, is_training=True, auto_augment=kept) is not None
