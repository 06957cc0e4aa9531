import copy
import math
import re

import pytest
import torch
from transformers import get_polynomial_decay_schedule_with_warmup

from rectify.rectified import AuxiliaryModel, auxiliary, insert
from rectify.runtime import generator
from rectify.tasks.image_text_retrieval.trunk import PairMeter
from rectify.training.optimizer import optimizer_and_schedule
from rectify.training.recipes import Recipe, recipe
from rectify.trunks.meter import Meter
from rectify.trunks.videomae import create_videomae
from tests.helpers.published_recipes import BASE


def by_name(model, values, what):
    """A value of each trained tensor's group, by the tensor's name."""
    optimizer, _ = optimizer_and_schedule(model, values, 1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group[what]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize(("size", "changes"), [("small", {}), ("base", BASE)])
def test_each_layer_of_videomae_has_its_share_of_the_rate(size, changes):
    values, unit = recipe("videomae", **changes), 3
    with torch.device("meta"):
        vit = create_videomae(f"vit_{size}_patch16_224", num_classes=174, image_size=224, frames=16)
    optimizer, schedule = optimizer_and_schedule(vit, values, unit)
    shares = by_name(vit, values, "lr_scale")
    assert set(shares) == {name for name, _ in vit.named_parameters()}
    for name, share in shares.items():
        if name.startswith("patch_embed"):
            distance = 13
        elif name.startswith("blocks"):
            distance = 12 - int(name.split(".")[1])
        else:  # head, and the norm before it
            distance = 0
        assert share == pytest.approx(values.layer_decay**distance), name
    for step in (0, 1, 14, 15, 60, values.epochs * unit - 1):
        schedule.step_update(step)
        top, bottom, warmup = values.scaled_lr, values.scaled_min_lr, 5 * unit
        rate = top * step / warmup
        if step >= warmup:
            passed = (step - warmup) / ((values.epochs - 5) * unit)
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
    values = recipe("deit", layer_decay=0.5)
    alone = by_name(vit, values, "lr_scale")
    if wrapped == "insert":
        model = insert(vit, block, "middle", generator=generator(0))
    else:
        model = auxiliary(vit, block, generator=generator(0))
    shares = by_name(model, values, "lr_scale")
    bridge = {name: share for name, share in shares.items() if name.startswith("bridge.")}
    assert bridge == {"bridge.up.weight": 1.0, "bridge.down.weight": 1.0}
    assert {name: share for name, share in shares.items() if name not in bridge} == {
        f"trunk.vit.{name}": share for name, share in alone.items()
    }
    assert len(set(alone.values())) == 6  # stem, four blocks, head


def by_hand(values: Recipe, time: float, unit: int) -> float:
    """Linear warm-up, then a cosine that counts from the very first step (as in DeiT)."""
    warmup, total, top = values.warmup_epochs * unit, values.epochs * unit, values.scaled_lr
    if time < warmup:
        return values.warmup_lr + time * (top - values.warmup_lr) / warmup
    return values.min_lr + (top - values.min_lr) * (1 + math.cos(math.pi * time / total)) / 2


def rates_of(vit, values, unit):
    """The rate of each epoch, or of each step."""
    optimizer, schedule = optimizer_and_schedule(vit, values, unit)
    change = schedule.step_update if values.lr_per_step else schedule.step
    rates = []
    for time in range(values.epochs * (unit if values.lr_per_step else 1)):
        change(time)
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(rate)
    return rates


@pytest.mark.parametrize("name", ["deit", "pang"])
def test_the_learning_rate_is_a_cosine_with_warm_up_per_epoch(vit, name):
    values = recipe(name)
    rates = rates_of(vit, values, 7)
    assert rates == pytest.approx([by_hand(values, epoch, 1) for epoch in range(300)])
    assert [rate for rate in rates if rate <= values.warmup_lr] == rates[:1]  # one epoch, not two
    assert rates[-1] > values.min_lr
    assert max(rates) <= values.scaled_lr


def test_the_learning_rate_can_change_with_every_step(vit):
    values = recipe("deit", epochs=4, warmup_epochs=1, lr_per_step=True, lr_batch_size=None)
    assert rates_of(vit, values, 5) == pytest.approx([by_hand(values, s, 5) for s in range(20)])


def test_without_warm_up_the_first_epoch_has_the_full_rate(vit):
    assert rates_of(vit, recipe("deit", warmup_epochs=0), 1)[0] == pytest.approx(1e-3)


STEPS = {
    "schedule": "step", "milestones": [4, 6], "gamma": 0.25, "epochs": 8, "lr": 1.0,
    "lr_batch_size": None, "warmup_epochs": 2, "warmup_lr": 0.5,
}  # fmt: skip


def test_the_learning_rate_falls_in_steps_from_the_milestones_on(vit):
    rates = rates_of(vit, recipe("deit", **STEPS), 3)
    assert rates == [0.5, 0.75, 1, 1, 0.25, 0.25, 0.0625, 0.0625]


def test_steps_may_be_counted_after_the_warm_up(vit):
    rates = rates_of(vit, recipe("deit", **STEPS, warmup_prefix=True), 3)
    assert rates == [0.5, 0.75, 1, 1, 1, 1, 0.25, 0.25]


def test_steps_are_those_of_torchs_own_schedule(vit):
    values = recipe("deit", **STEPS | {"warmup_epochs": 0})
    optimizer = torch.optim.SGD(vit.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 6], 0.25)
    rates = []
    for _ in range(8):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates_of(vit, values, 3) == rates


def test_steps_and_their_warm_up_can_be_taken_within_epochs(vit):
    rates = rates_of(vit, recipe("deit", **STEPS, lr_per_step=True), 2)
    assert rates == [0.5, 0.625, 0.75, 0.875, *[1] * 4, *[0.25] * 4, *[0.0625] * 4]


@pytest.mark.parametrize("last", [0.0, 0.25])
def test_the_learning_rate_falls_in_a_straight_line_as_meters_does(vit, last):
    values = recipe("meter", lr=1.0, min_lr=last, lr_factors=[], epochs=4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = get_polynomial_decay_schedule_with_warmup(optimizer, 5, 20, lr_end=last, power=1)
    rates = []
    for _ in range(20):
        rates += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    assert rates_of(vit, values, 5) == pytest.approx(rates)
    assert rates[:6] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])


PARTS = {"image": 1, "text": 1, "types": 1, "layers": 5}
PARTS |= {f"{one}_{kind}": 5 for one in ("image", "text") for kind in ("transform", "pooler")}


@pytest.mark.parametrize("wrapped", ["vanilla", "insert", "auxiliary", "head"])
@pytest.mark.parametrize(
    ("kind", "name", "head"),
    [
        (Meter, "meter", {"hidden": 50, "norm": 50, "output": 50}),
        (PairMeter, "meter-retrieval", {"rank": 1}),
    ],
)
def test_each_tensor_of_meter_learns_at_the_rate_of_its_part(block, wrapped, kind, name, head):
    """Written out for the published model: which parts METER's code multiplies the rate of."""
    with torch.device("meta"):
        model = kind.of({}, answers=3129)
    if wrapped == "insert":
        model = insert(model, block, "end", generator=generator(0))
    if wrapped == "auxiliary":
        model = auxiliary(model, block, generator=generator(0))
    if wrapped == "head":
        model = AuxiliaryModel(model, None, copy.deepcopy(model.head))
    optimizer, _ = optimizer_and_schedule(model, recipe(name), 1)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.98)}
    grouped = [one for group in optimizer.param_groups for one in group["params"]]
    trained = {key: one for key, one in model.named_parameters() if one.requires_grad}
    assert len(grouped) == len(trained)
    assert {id(one) for one in grouped} == {id(one) for one in trained.values()}
    found = by_name(model, recipe(name), "lr_scale")
    assert found.keys() == trained.keys()
    for key, factor in found.items():
        path = key.removeprefix("trunk.").removeprefix("head.").split(".")
        expected = 10 if key.startswith("bridge.") else {**PARTS, **head}[path[0]]
        assert factor == expected, key
    decays = by_name(model, recipe(name), "weight_decay")
    for key, one in trained.items():
        assert decays[key] == (0.0 if one.ndim == 1 else 0.01), key


@pytest.mark.parametrize("wrapped", ["vanilla", "insert", "auxiliary"])
@pytest.mark.parametrize("factors", [(), (("", 0.5),)])
def test_biases_norms_positions_and_class_token_are_not_decayed(vit, block, wrapped, factors):
    model = vit
    if wrapped == "insert":
        model = insert(vit, block, "end", generator=generator(0))
    if wrapped == "auxiliary":
        model = auxiliary(vit, block, generator=generator(0))
    decay = by_name(model, recipe("deit", lr_factors=factors), "weight_decay")
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    assert decay.keys() == trained.keys()
    for name, parameter in trained.items():
        free = parameter.ndim == 1 or name.endswith(("pos_embed", "cls_token"))
        assert decay[name] == (0.0 if free else 0.05), name


def test_the_optimizer_has_the_values_of_deit(vit):
    optimizer, _ = optimizer_and_schedule(vit, recipe("deit"), 1)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert (tuple(group["betas"]), group["eps"]) == ((0.9, 0.999), 1e-8)
        assert not group["amsgrad"]


def test_each_tensor_learns_at_the_factor_of_the_pattern_that_it_fits(vit, block):
    """Point-BERT's groups in Pang et al.: adapters at a half, norms and biases at a tenth."""
    model = insert(vit, block, "end", generator=generator(0))
    slow = r"norm|bias|token|pos_embed"
    factors = [["^bridge", 0.5], [rf"^trunk.*({slow})", 0.1], [rf"^trunk(?!.*({slow}))", 1.0]]
    values = recipe("deit", lr_factors=factors, warmup_epochs=0)
    optimizer, schedule = optimizer_and_schedule(model, values, 1)
    schedule.step(150)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    half = by_hand(values, 150, 1)
    seen = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            factor = 0.5 if name.startswith("bridge") else 0.1 if re.search(slow, name) else 1.0
            assert group["lr"] == pytest.approx(half * factor), name
            seen.append(name)
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    assert sorted(seen) == sorted(trained)


@pytest.mark.parametrize(
    ("factors", "got"),
    [
        ([["blocks", 1.0]], "got none for "),
        ([["", 1.0], ["head", 2.0]], "got  and head for head"),
    ],
)
def test_a_tensor_without_exactly_one_pattern_is_one_line(vit, factors, got):
    with pytest.raises(ValueError, match="must fit one pattern of lr_factors, " + got) as caught:
        optimizer_and_schedule(vit, recipe("deit", lr_factors=factors), 1)
    assert "\n" not in str(caught.value)
