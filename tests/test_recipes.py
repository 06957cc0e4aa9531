import math
from dataclasses import asdict

import pytest
import torch

from rectify.recipes import RECIPES, Recipe, mixup, optimizer_and_schedule, recipe
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator
from rectify.videomae import create_videomae

DEIT = {
    "epochs": 300,
    "batch_size": 1024,
    "lr": 5e-4,
    "lr_batch_size": 512,
    "layer_decay": None,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "warmup_prefix": False,
    "warmup_lr": 1e-6,
    "min_lr": 1e-5,
    "scale_min_lr": False,
    "lr_per_step": False,
    "drop_path": 0.1,
    "head_scale": 1.0,
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
    "augment_repeats": 1,
    "precision": "float32",
    "accumulate": 1,
    "compile": False,
}

VIDEOMAE = {
    "epochs": 40,
    "batch_size": 24,
    "lr": 1e-3,
    "lr_batch_size": 256,
    "layer_decay": 0.7,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "warmup_prefix": True,
    "warmup_lr": 0.0,
    "min_lr": 1e-6,
    "scale_min_lr": True,
    "lr_per_step": True,
    "drop_path": 0.1,
    "head_scale": 1e-3,
    "label_smoothing": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mixup_prob": 1.0,
    "mixup_switch_prob": 0.5,
    "mixup_mode": "batch",
    "auto_augment": "rand-m7-n4-mstd0.5-inc1",
    "crop": "resized",
    "crop_scale": 0.08,
    "pad": 4,
    "repeats": 1,
    "flip": 0.0,
    "random_erasing": 0.25,
    "augment_repeats": 2,
    "precision": "float32",
    "accumulate": 1,
    "compile": False,
}
BASE = {"epochs": 30, "batch_size": 12, "lr": 5e-4, "layer_decay": 0.75}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("deit", {}),
        ("pang", {"warmup_epochs": 20}),
        ("paper", {"weight_decay": 1e-5, "mixup_mode": "elem", "repeats": 1}),
        ("videomae", VIDEOMAE),
    ],
)
def test_a_recipe_has_its_published_values(name, changes):
    assert asdict(recipe(name)) == DEIT | changes


def test_there_are_four_recipes_and_a_change_leaves_them_as_they_are():
    changed = recipe("deit", epochs=7, batch_size=64)
    assert (changed.epochs, changed.batch_size, changed.lr) == (7, 64, 5e-4)
    assert set(RECIPES) == {"deit", "pang", "paper", "videomae"}
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


@pytest.mark.parametrize(("size", "changes"), [("small", {}), ("base", BASE)])
def test_each_layer_of_videomae_has_its_share_of_the_rate(size, changes):
    one, unit = recipe("videomae", **changes), 3
    with torch.device("meta"):
        vit = create_videomae(f"vit_{size}_patch16_224", num_classes=174, image_size=224, frames=16)
    optimizer, schedule = optimizer_and_schedule(vit, one, unit)
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    shares = {
        names[id(parameter)]: group["lr_scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert set(shares) == set(names.values())
    for name, share in shares.items():
        if name.startswith("patch_embed"):
            distance = 13
        elif name.startswith("blocks"):
            distance = 12 - int(name.split(".")[1])
        else:  # head, and the norm before it
            distance = 0
        assert share == pytest.approx(one.layer_decay**distance), name
    for step in (0, 1, 14, 15, 60, one.epochs * unit - 1):
        schedule.step_update(step)
        top, bottom, warmup = one.scaled_lr, one.scaled_min_lr, 5 * unit
        rate = top * step / warmup
        if step >= warmup:
            passed = (step - warmup) / ((one.epochs - 5) * unit)
            rate = bottom + (top - bottom) * (1 + math.cos(math.pi * passed)) / 2
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * group["lr_scale"])
            free = all(parameter.ndim == 1 for parameter in group["params"])
            assert group["weight_decay"] == (0.0 if free else 0.05)


@pytest.mark.parametrize("wrapped", ["insert", "auxiliary"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_adapters_learn_at_the_full_rate_and_the_vit_as_without_them(
    make_vit, block, wrapped, pool
):
    vit = make_vit(overrides={"global_pool": pool})
    one = recipe("deit", layer_decay=0.5)
    alone = scales(vit, one)
    if wrapped == "insert":
        model = insert(vit, block, "middle", generator=generator(0))
    else:
        model = auxiliary(vit, block, generator=generator(0))
    found = scales(model, one)
    bridge = {name: share for name, share in found.items() if name.startswith("bridge.")}
    assert bridge == {"bridge.up.weight": 1.0, "bridge.down.weight": 1.0}
    assert {name: share for name, share in found.items() if name not in bridge} == {
        f"vit.{name}": share for name, share in alone.items()
    }
    assert len(set(alone.values())) == 6  # stem, four blocks, head


def scales(model, one):
    optimizer, _ = optimizer_and_schedule(model, one, 1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr_scale"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


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
    with pytest.raises(ValueError, match="must be one of deit, pang, paper, videomae, got 'diet'"):
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
        ({"layer_decay": 1.5}, r"layer_decay must be in 0\.\.1 without 0, or null, got 1\.5"),
        ({"augment_repeats": 0}, "augment_repeats must be positive, got 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in 0\.\.1, got 1\.0"),
    ],
)
def test_a_value_that_cannot_be_right_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        recipe("deit", **changes)
    assert "\n" not in str(caught.value)


def test_an_odd_batch_is_fine_without_mixup():
    assert recipe("deit", batch_size=63, mixup=0, cutmix=0).batch_size == 63
    assert recipe("videomae", batch_size=3).batch_size == 3  # each item stands in it twice
