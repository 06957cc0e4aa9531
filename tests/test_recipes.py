import math
from dataclasses import asdict

import pytest
import torch

from rectify.recipes import RECIPES, Recipe, mixup, optimizer_and_schedule, recipe
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator

DEIT = {
    "epochs": 300,
    "batch_size": 1024,
    "lr": 5e-4,
    "lr_batch_size": 512,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "lr_per_step": False,
    "drop_path": 0.1,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "crop": "resized",
    "crop_scale": 0.08,
    "pad": 4,
    "repeats": 3,
    "flip": 0.5,
    "random_erasing": 0.25,
    "precision": "float32",
    "accumulate": 1,
    "compile": False,
}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit", {}),
        ("pang", {"warmup_epochs": 20}),
        ("paper", {"weight_decay": 1e-5, "mixup_mode": "elem", "repeats": 1}),
    ],
)
def test_a_recipe_has_its_published_values(name, changes):
    assert asdict(recipe(name)) == DEIT | changes


def test_there_are_three_recipes_and_a_change_leaves_them_as_they_are():
    changed = recipe("deit", epochs=7, batch_size=64)
    assert (changed.epochs, changed.batch_size, changed.lr) == (7, 64, 5e-4)
    assert set(RECIPES) == {"deit", "pang", "paper"}
    assert RECIPES["deit"].epochs == 300


def test_the_learning_rate_follows_the_batch_size():
    assert recipe("deit").scaled_lr == pytest.approx(1e-3)
    assert recipe("deit", batch_size=256).scaled_lr == pytest.approx(2.5e-4)
    assert recipe("deit", batch_size=256, lr_batch_size=None).scaled_lr == 5e-4


def by_hand(one: Recipe, time: float, unit: int) -> float:
    """Linear warm-up, then a cosine that counts from the very first step (as in DeiT)."""
    warmup, total, top = one.warmup_epochs * unit, one.epochs * unit, one.scaled_lr
    if time < warmup:
        return one.warmup_lr + time * (top - one.warmup_lr) / warmup
    return one.min_lr + (top - one.min_lr) * (1 + math.cos(math.pi * time / total)) / 2


@pytest.mark.parametrize("name", ["deit", "pang"])
def test_the_learning_rate_is_a_cosine_with_warm_up_per_epoch(vit, name):
    one = recipe(name)
    optimizer, schedule = optimizer_and_schedule(vit, one, 7)
    rates = []
    for epoch in range(one.epochs):
        schedule.step(epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([by_hand(one, epoch, 1) for epoch in range(300)])
    assert len({group["lr"] for group in optimizer.param_groups}) == 1
    assert [rate for rate in rates if rate <= one.warmup_lr] == rates[:1]  # one epoch, not two
    assert rates[-1] > one.min_lr
    assert max(rates) <= one.scaled_lr


def test_the_learning_rate_can_change_with_every_step(vit):
    one = recipe("deit", epochs=4, warmup_epochs=1, lr_per_step=True, lr_batch_size=None)
    optimizer, schedule = optimizer_and_schedule(vit, one, 5)
    rates = []
    for step in range(20):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([by_hand(one, step, 5) for step in range(20)])


def test_without_warm_up_the_first_epoch_has_the_full_rate(vit):
    optimizer, schedule = optimizer_and_schedule(vit, recipe("deit", warmup_epochs=0), 1)
    schedule.step(0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("wrapped", ["vanilla", "insert", "auxiliary"])
def test_biases_norms_positions_and_class_token_are_not_decayed(vit, block, wrapped):
    model = vit
    if wrapped == "insert":
        model = insert(vit, block, "end", generator=generator(0))
    if wrapped == "auxiliary":
        model = auxiliary(vit, block, generator=generator(0))
    optimizer, _ = optimizer_and_schedule(model, recipe("deit"), 1)
    assert type(optimizer) is torch.optim.AdamW
    decay = {
        id(one): group["weight_decay"]
        for group in optimizer.param_groups
        for one in group["params"]
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = parameter.ndim == 1 or name.endswith(("pos_embed", "cls_token"))
            assert decay[id(parameter)] == (0.0 if free else 0.05), name


def test_the_optimizer_has_the_values_of_deit(vit):
    optimizer, _ = optimizer_and_schedule(vit, recipe("deit"), 1)
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
        assert not group["amsgrad"]


def test_a_recipe_mixes_as_deit_does():
    mix = mixup(recipe("deit"), 1000)
    values = (mix.mixup_alpha, mix.cutmix_alpha, mix.mix_prob, mix.switch_prob)
    assert values == (0.8, 1.0, 1.0, 0.5)
    assert (mix.label_smoothing, mix.mode, mix.cutmix_minmax) == (0.1, "batch", None)
    assert mixup(recipe("paper"), 1000).mode == "elem"


def test_mixup_is_off_only_where_both_are_off():
    assert mixup(recipe("deit", mixup=0, cutmix=0), 5) is None
    for changes in ({"mixup": 0}, {"cutmix": 0}, {}):
        mix = mixup(recipe("deit", **changes), 5)
        torch.manual_seed(0)
        _, targets = mix(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]))
        assert targets.shape == (4, 5)
        torch.testing.assert_close(targets.sum(1), torch.ones(4))
        assert targets.min() > 0  # smoothed


def test_the_papers_mixup_draws_for_each_image():
    mix = mixup(recipe("paper", label_smoothing=0, cutmix=0), 100)
    _, targets = mix(torch.rand(32, 1, 8, 8), torch.arange(32))
    assert len({round(share, 6) for share in targets.max(1).values.tolist()}) > 8


def test_an_unknown_name_is_one_line_with_the_nearest_right_one():
    with pytest.raises(ValueError, match="must be one of deit, pang, paper, got 'diet'"):
        recipe("diet")
    with pytest.raises(ValueError, match=r"must be known, got 'epoch'\. Did you mean epochs"):
        recipe("deit", epoch=3)
    with pytest.raises(ValueError, match=r"got 'zzz'\. Known: epochs, batch_size"):
        recipe("deit", zzz=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 63}, "batch_size must be even with Mixup or CutMix, got 63"),
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"lr": 0}, "lr must be positive, got 0.0"),
        ({"epochs": 5}, r"warmup_epochs must be below epochs \(5\), got 5"),
        ({"crop": "random"}, "crop must be resized, padded or none, got 'random'"),
        ({"crop": "none"}, "crop must be resized or padded with auto_augment, got 'none'"),
        ({"repeats": 0}, "repeats must be positive, got 0"),
        ({"accumulate": 0}, "accumulate must be positive, got 0"),
        ({"mixup_mode": "pair"}, "mixup_mode must be batch or elem, got 'pair'"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in 0\.\.1, got 1\.0"),
    ],
)
def test_a_value_that_cannot_be_right_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipe("deit", **changes)
    assert "\n" not in str(caught.value)


def test_an_odd_batch_is_fine_without_mixup():
    assert recipe("deit", batch_size=63, mixup=0, cutmix=0).batch_size == 63
