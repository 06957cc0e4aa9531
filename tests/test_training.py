import contextlib
import dataclasses
import io
import itertools
import math
import re
from functools import partial

import pytest
import torch
from torch import nn

from rectify.data.augment import batched, normalise, per_image
from rectify.epochs import TrainingData, item_order
from rectify.gsnr import GsnrObserver
from rectify.recipes import mixup, recipe
from rectify.rectified import auxiliary, insert
from rectify.runtime import generator, seed_globals
from rectify.training import Interrupted, auxiliary_weight, total_loss, train

CPU = torch.device("cpu")
PLAIN = {"mixup": 0, "cutmix": 0, "drop_path": 0, "auto_augment": None, "random_erasing": 0}
SMALL = {"epochs": 3, "batch_size": 8, "warmup_epochs": 1, "lr": 1e-3, "lr_batch_size": None}
TIMES = 2  # the last two columns of a history: seconds and images per second


def small(**changes):
    return recipe("paper", **SMALL | {"crop": "padded", "auto_augment": None} | changes)


def training_data(images, augment=None):
    chosen = augment or batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.5)
    return TrainingData(images.images, images.labels, 5, chosen)


class Recorder:
    """An augmentation that keeps what it was given and what it gave."""

    def __init__(self):
        self.given, self.made = [], []
        self.augment = batched(crop="padded", pad=2, flip_prob=0.5, erasing=0.5)

    def __call__(self, images, draws):
        self.given.append(images.clone())
        self.made.append(self.augment(images, draws))
        return self.made[-1].clone()


class Counter:
    """An observer that remembers when it was called."""

    def __init__(self, steps=(1, 3)):
        self.steps, self.watched, self.recorded = frozenset(steps), 0, []

    def measured_steps(self, steps_per_epoch):
        assert steps_per_epoch == 5
        return self.steps

    @contextlib.contextmanager
    def watch(self, scale):
        assert scale == 1
        self.watched += 1
        yield

    def losses(self, main, auxiliary):
        assert (main.ndim, auxiliary) == (0, None)

    def record(self, epoch, samples):
        self.recorded.append((epoch, samples))

    def state_dict(self):
        return {"watched": self.watched}

    def load_state_dict(self, state):
        self.watched = state["watched"]


def trained(model, data, one, *, seed=0, lambda_init=0.0, **more):
    arguments = {"evaluate": lambda model: (0.5, 1.0), "save": lambda state: None} | more
    rows = train(model, data, one, lambda_init=lambda_init, seed=seed, device=CPU, **arguments)
    return [row[:-TIMES] for row in rows]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def stored(state):
    """Send a state through a file, as a checkpoint does."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("first", "floor", "mean"),
    [(0.15, 100, 0.108), (0.25, 180, 0.145), (0.35, 214.3, 0.190), (0.45, 233.3, 0.237)],
)
def test_lambda_falls_linearly_to_its_floor(first, floor, mean):
    values = [auxiliary_weight(first, epoch, 300) for epoch in range(300)]
    assert values[0] == first
    assert values[150] == pytest.approx(max(0.1, first / 2))
    assert sum(values) / 300 == pytest.approx(mean, abs=6e-4)
    reached = next(epoch for epoch, value in enumerate(values) if value == 0.1)
    assert reached == math.ceil(round(floor, 6))
    assert set(values[reached:]) == {0.1}
    assert floor == pytest.approx(300 * (1 - 0.1 / first), abs=0.05)


def test_no_first_lambda_means_no_second_loss_in_any_epoch():
    assert [auxiliary_weight(0.0, epoch, 10) for epoch in range(10)] == [0.0] * 10


def test_the_total_loss_is_the_weighted_sum():
    main, second = torch.tensor(2.0), torch.tensor(5.0)
    assert total_loss(main, second, 0.35).item() == pytest.approx(0.65 * 2 + 0.35 * 5)
    assert total_loss(main, None, 0.0) is main


def test_each_item_is_seen_once_per_epoch_in_another_order(vit, images):
    recorder = Recorder()
    trained(vit, training_data(images, recorder), small(**PLAIN))
    assert [len(batch) for batch in recorder.given] == [8] * 15
    epochs = [torch.cat(recorder.given[5 * epoch : 5 * epoch + 5]) for epoch in range(3)]
    everything = sorted(images.images.flatten(1).tolist())
    assert all(sorted(epoch.flatten(1).tolist()) == everything for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_repeated_augmentation_shows_another_third_in_each_epoch():
    """In Pang et al.'s code one process saw the same third, three times, in every epoch."""
    items, seen = 50_000, set()
    shares = []
    for epoch in range(6):
        order = item_order(items, 3, 0, epoch)
        counts = order.bincount(minlength=items)
        assert len(order) == items
        assert sorted(counts.unique().tolist()) == [0, 2, 3]  # 50,000 is no multiple of 3
        assert (counts == 2).sum() == 1
        assert torch.equal(order[0::3][:-1], order[2::3])  # copies stand together, in one batch
        seen |= set(order.tolist())
        shares.append(len(seen) / items)
    assert shares == pytest.approx([1 - (2 / 3) ** epoch for epoch in range(1, 7)], abs=0.01)


def test_without_repeats_an_epoch_is_a_permutation_of_its_own():
    orders = [item_order(100, 1, 0, epoch) for epoch in (0, 1, 0)]
    assert all(sorted(order.tolist()) == list(range(100)) for order in orders)
    assert torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], item_order(100, 1, 1, 0))


def test_the_copies_of_a_repeated_item_are_augmented_each_in_its_own_way(vit, images):
    recorder = Recorder()
    trained(
        vit, training_data(images, recorder), small(**PLAIN, repeats=2, epochs=1, warmup_epochs=0)
    )
    given, made = torch.cat(recorder.given).flatten(1), torch.cat(recorder.made).flatten(1)
    assert torch.equal(given[0::2], given[1::2])
    assert len(given.unique(dim=0)) == 20
    assert (made[0::2] != made[1::2]).any(1).float().mean() > 0.8


def test_no_two_epochs_run_at_the_warm_up_rate(vit, images):
    one = small(epochs=5, warmup_epochs=3, warmup_lr=1e-6)
    rates = [row[5] for row in trained(vit, training_data(images), one)]
    assert rates[0] == 1e-6
    assert all(rate > 1e-4 for rate in rates[1:])


@pytest.mark.parametrize("changes", [{"mixup": 0}, {"cutmix": 0}, {"mixup": 0, "mixup_prob": 0.5}])
def test_mixed_targets_meet_a_loss_for_soft_targets(make_vit, images, changes):
    """In Pang et al.'s code CutMix without Mixup handed soft targets to a loss for labels."""
    one = small(
        **{**PLAIN, "cutmix": 1.0, "mixup": 0.8, **changes},
        epochs=1,
        warmup_epochs=0,
        batch_size=40,
    )
    data = training_data(images, lambda batch, draws: normalise(batch))
    model, other = make_vit(), make_vit()
    (row,) = trained(model, data, one)
    items = item_order(40, 1, 0, 0)
    seed_globals(0, "step", 0, 0)
    mixed, soft = mixup(one, 5)(normalise(images.images[items]), images.labels[items])
    logits = other.train()(mixed).log_softmax(1)
    assert soft.shape == (40, 5)
    assert row[1] == pytest.approx(-(soft * logits).sum(1).mean().item(), rel=1e-5)


def test_a_ragged_last_batch_is_left_out_and_changes_with_the_epoch(vit, images):
    recorder = Recorder()
    trained(vit, training_data(images, recorder), small(**PLAIN, batch_size=16))
    assert [len(batch) for batch in recorder.given] == [16] * 6
    first, second = torch.cat(recorder.given[:2]), torch.cat(recorder.given[2:4])
    assert len(first.flatten(1).unique(dim=0)) == 32
    assert sorted(first.flatten(1).tolist()) != sorted(second.flatten(1).tolist())


def test_every_epoch_and_step_has_its_own_augmentation(vit, images):
    recorder = Recorder()
    constant = images.images[:1].expand(40, -1, -1, -1).contiguous()
    data = TrainingData(constant, images.labels, 5, recorder)
    trained(vit, data, small(**PLAIN))
    made = {tuple(batch.flatten().tolist()) for batch in recorder.made}
    assert len(made) == len(recorder.made) == 15


def test_one_epoch_equals_a_loop_by_hand(make_vit, images):
    one = small(**PLAIN, epochs=1, warmup_epochs=0, label_smoothing=0.1)
    data = training_data(images, lambda batch, draws: normalise(batch))
    model, other = make_vit(), make_vit()
    rows = trained(model, data, one)
    decayed = [p for n, p in other.named_parameters() if p.ndim > 1 and not n.endswith("_embed")
               and not n.endswith("_token")]  # fmt: skip
    free = [p for p in other.parameters() if not any(p is d for d in decayed)]
    groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 1e-5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    order, losses = torch.randperm(40, generator=generator(0, "order", 0)), []
    for items in order.split(8):
        logits = other(normalise(images.images[items])).log_softmax(1)
        soft = torch.full((8, 5), 0.1 / 5)
        soft[range(8), images.labels[items]] += 0.9
        loss = -(soft * logits).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights(model), weights(other))
    epoch, total, main, second, weight, lr, top1, topk = rows[0]
    assert (total, main) == (pytest.approx(sum(losses) / 5),) * 2
    assert (epoch, second, weight, lr, top1, topk) == (0, None, 0.0, pytest.approx(1e-3), 0.5, 1.0)


def test_the_history_has_both_losses_and_their_weighted_sum(vit, block, images):
    model = auxiliary(vit, block, generator=generator(0))
    rows = trained(model, training_data(images), small(), lambda_init=0.6)
    assert [row[0] for row in rows] == [0, 1, 2]
    assert [row[4] for row in rows] == pytest.approx([0.6, 0.4, 0.2])
    for _, total, main, second, weight, *_ in rows:
        assert total == pytest.approx((1 - weight) * main + weight * second, rel=1e-5)


def test_training_learns_what_brightness_shows(vit, images):
    one = small(**PLAIN, epochs=12, lr=5e-3)
    rows = trained(vit, training_data(images, lambda batch, draws: normalise(batch)), one)
    assert rows[-1][1] < 0.85 * rows[0][1]


@pytest.mark.parametrize("variant", ["vanilla", "auxiliary"])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    make_vit, block, images, variant
):
    def run(seed):
        vit = make_vit(drop_path=0.3)
        vanilla = variant == "vanilla"
        model = vit if vanilla else auxiliary(vit, block, generator=generator(0))
        weight = 0.0 if vanilla else 0.35
        rows = trained(model, training_data(images), small(), seed=seed, lambda_init=weight)
        return rows, weights(model)

    torch.manual_seed(1)
    rows, state = run(0)
    torch.manual_seed(2)
    again, repeated = run(0)
    assert again == rows
    assert same(repeated, state)
    assert run(1)[0] != rows


@pytest.mark.parametrize("done", [1, 2, 3])
@pytest.mark.parametrize("lr_per_step", [False, True])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_vit, block, images, done, lr_per_step
):
    one, states = small(lr_per_step=lr_per_step), []

    def model_and_observer(seed):
        model = auxiliary(make_vit(seed, drop_path=0.3), block, generator=generator(seed))
        return model, GsnrObserver(model.vit.blocks, batches=2)

    model, observer = model_and_observer(0)
    more = {"lambda_init": 0.35, "observer": observer}
    save = {"save": lambda state: states.append(stored(state))}
    rows = trained(model, training_data(images), one, **more, **save)
    assert len(states) == 3
    other, second = model_and_observer(7)  # other weights: all must come from the state
    torch.manual_seed(9)
    more = {"lambda_init": 0.35, "observer": second, "saved": states[done - 1]}
    assert trained(other, training_data(images), one, **more) == rows
    assert same(weights(other), weights(model))
    assert [second.rows(e) for e in range(3)] == [observer.rows(e) for e in range(3)]


def test_runs_that_differ_in_the_model_alone_see_the_same_batches(make_vit, block, images):
    seen = []
    builders = (
        lambda vit: vit,
        lambda vit: insert(vit, block, "end", generator=generator(0)),
        lambda vit: auxiliary(vit, block, generator=generator(0)),
    )
    for build in builders:
        inputs = []
        vit = make_vit(drop_path=0.3)
        vit.patch_embed.register_forward_pre_hook(lambda m, i, kept=inputs: kept.append(i[0]))
        trained(build(vit), training_data(images), small(), lambda_init=0.35)
        seen.append(torch.cat(inputs))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_observer_is_called_on_exactly_the_measured_steps(vit, images):
    observer, steps = Counter(), []
    vit.register_forward_hook(lambda *call: steps.append(observer.watched))
    trained(vit, training_data(images), small(), observer=observer)
    assert observer.recorded == [(epoch, 8) for epoch in range(3) for _ in range(2)]
    inside = [after > before for before, after in zip([0, *steps[:-1]], steps, strict=True)]
    assert inside == [False, True, False, True, False] * 3


def test_observing_does_not_change_the_training(make_vit, images):
    plain, watched = make_vit(), make_vit()
    observer = GsnrObserver(watched.blocks, batches=3)
    rows = trained(plain, training_data(images), small())
    assert trained(watched, training_data(images), small(), observer=observer) == rows
    assert same(weights(plain), weights(watched))


@pytest.mark.parametrize("done", [0, 1])
def test_images_prepared_by_workers_train_as_those_prepared_here_also_resumed(make_vit, done):
    """RandAugment, erasing and Mixup: everything that draws, on colour images of 20 pixels."""
    pixels = torch.randint(0, 256, (24, 3, 20, 20), generator=generator(0), dtype=torch.uint8)
    one = small(auto_augment="rand-m9-mstd0.5-inc1", crop="resized", epochs=2)
    prepare = per_image(
        image_size=16, crop="resized", crop_scale=0.08, pad=4, flip_prob=0.5,
        auto_augment=one.auto_augment,
    )  # fmt: skip
    last, states = batched(crop="none", pad=0, flip_prob=0.0, erasing=0.5), []

    def run(workers, **more):
        model = make_vit(channels=3)
        data = TrainingData(pixels, torch.arange(24) % 5, 5, last, prepare, workers)
        return trained(model, data, one, **more), weights(model)

    rows, state = run(0, save=lambda state: states.append(stored(state)))
    again, repeated = run(1, saved=states[0] if done else None)
    assert again == rows
    assert same(repeated, state)


class Diverges(nn.Module):
    """Gives nan in one step."""

    def __init__(self, vit, step):
        super().__init__()
        self.vit, self.step, self.calls = vit, step, 0

    def forward(self, images):
        self.calls += 1
        return self.vit(images) * (math.nan if self.calls == self.step + 1 else 1.0)


@pytest.mark.parametrize("watched", [False, True])
def test_a_loss_that_is_not_finite_names_epoch_and_step_and_takes_no_step(
    make_vit, images, watched
):
    model, states = Diverges(make_vit(), 8), []
    observer = GsnrObserver(model.vit.blocks, batches=5) if watched else None
    save = {"save": lambda state: states.append(stored(state)), "observer": observer}
    message = "the loss must be finite, got nan in epoch 1, step 3. Lower training.lr"
    with pytest.raises(ValueError, match=re.escape(message)):
        trained(model, training_data(images), small(), **save)
    assert len(states) == 1
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


def test_a_batch_larger_than_the_set_is_one_line(vit, images):
    with pytest.raises(ValueError, match="must not exceed the 40 training items, got 42"):
        trained(vit, training_data(images), small(batch_size=42))


def test_a_state_of_another_seed_or_format_is_one_line(vit, images):
    states = []
    save = {"save": lambda state: states.append(stored(state))}
    trained(vit, training_data(images), small(), **save)
    for changes, got in (({"seed": 3}, "2 and 3"), ({"format": 0}, "0 and 0")):
        with pytest.raises(ValueError, match=f"of format 2 and seed 0, got {got}. Delete it"):
            trained(vit, training_data(images), small(), saved=states[0] | changes)


def test_each_epoch_is_reported_after_it_was_saved(vit, images):
    order = []
    more = {"save": lambda state: order.append(len(state["rows"])), "report": order.append}
    rows = trained(vit, training_data(images), small(), **more)
    assert order[0::2] == [1, 2, 3]
    assert [row[:-TIMES] for row in order[1::2]] == rows


def test_bfloat16_trains_close_to_float32(make_vit, images):
    rows = [
        trained(make_vit(), training_data(images), small(**PLAIN, precision=precision))
        for precision in ("float32", "bfloat16")
    ]
    assert rows[0] != rows[1]
    assert rows[0][-1][1] == pytest.approx(rows[1][-1][1], rel=0.02)


def test_clips_are_mixed_as_a_whole(make_vit, images):
    vit, inputs = make_vit(frames=2), []
    vit.patch_embed.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    clips = images.images[:, None].expand(-1, 2, -1, -1, -1).contiguous()
    data = TrainingData(clips, images.labels, 5, lambda batch, draws: normalise(batch))
    trained(vit, data, small(epochs=2))
    assert inputs[0].shape == (8, 2, 1, 16, 16)
    assert all(torch.equal(batch[:, 0], batch[:, 1]) for batch in inputs)


def test_a_run_that_was_stopped_within_an_epoch_goes_on_bit_by_bit(vit, images, make_vit):
    """Also the sums of its losses and its GSNR, of an epoch of five measured steps."""
    data, recipe_ = training_data(images), small(drop_path=0.3)
    observer = GsnrObserver(vit.blocks, batches=5)
    rows = trained(vit, data, recipe_, observer=observer)
    steps, states = itertools.count(1), []
    other = make_vit()

    def train_again(model, watch, **more):
        save = {"save": lambda state: states.append(stored(state)), "observer": watch}
        return trained(model, data, recipe_, **save, **more)

    first = GsnrObserver(other.blocks, batches=5)
    with pytest.raises(Interrupted, match=r"stopped in epoch 2 of 3 after step 3 of 5, and saved"):
        train_again(other, first, stop=lambda: next(steps) == 8)
    assert states[-1]["part"]["step"] == 3
    fresh = make_vit(seed=9)
    second = GsnrObserver(fresh.blocks, batches=5)
    assert [row[:-TIMES] for row in train_again(fresh, second, saved=states[-1])] == [
        row[:-TIMES] for row in rows
    ]
    assert [second.rows(epoch) for epoch in range(3)] == [
        observer.rows(epoch) for epoch in range(3)
    ]
    for name, tensor in vit.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name]), name


def gsnr_rows(observer):
    return [row for epoch in range(3) for row in observer.rows(epoch)]


def test_a_stop_in_the_last_step_of_an_epoch_goes_on_with_its_evaluation(vit, images, make_vit):
    rows, states, steps = trained(vit, training_data(images), small()), [], itertools.count(1)
    save = {"save": lambda state: states.append(stored(state))}
    with pytest.raises(Interrupted, match="epoch 1 of 3 after step 5 of 5"):
        trained(make_vit(), training_data(images), small(), stop=lambda: next(steps) == 5, **save)
    again = trained(make_vit(seed=9), training_data(images), small(), saved=states[-1])
    assert [row[:-TIMES] for row in again] == [row[:-TIMES] for row in rows]


def test_a_long_epoch_is_saved_within(vit, images, monkeypatch):
    monkeypatch.setattr("rectify.training.SAVE_SECONDS", 0.0)
    states = []
    trained(vit, training_data(images), small(epochs=2), save=lambda s: states.append(stored(s)))
    assert [state["part"]["step"] for state in states] == [1, 2, 3, 4, 5, 0] * 2


def test_accumulated_parts_take_the_steps_of_the_whole_batch(vit, images, make_vit):
    off = small(mixup=0.0, cutmix=0.0, drop_path=0.0)
    observer = GsnrObserver(vit.blocks, batches=2)
    rows = trained(vit, training_data(images), off, observer=observer)
    parts = make_vit()
    other = GsnrObserver(parts.blocks, batches=2)
    changed = dataclasses.replace(off, accumulate=4)
    for row, own in zip(
        trained(parts, training_data(images), changed, observer=other), rows, strict=True
    ):
        assert row[1:3] == pytest.approx(own[1:3], rel=1e-5)
    for one, whole in zip(gsnr_rows(other), gsnr_rows(observer), strict=True):
        assert one[3] == pytest.approx(whole[3], rel=2e-3, abs=1e-7)
    with pytest.raises(ValueError, match="must divide into 1 processes times 3 accumulated parts"):
        trained(make_vit(), training_data(images), dataclasses.replace(off, accumulate=3))
    odd = small(accumulate=4, batch_size=12)
    with pytest.raises(ValueError, match=r"4 accumulated parts, each even for Mixup, got 12"):
        trained(make_vit(), training_data(images), odd)


def test_a_compiled_model_takes_the_same_steps_and_is_measured_eagerly(
    vit, images, make_vit, monkeypatch
):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    runs = []
    for model, compiled in ((vit, False), (make_vit(), True)):
        observer = GsnrObserver(model.blocks, batches=2)
        rows = trained(model, training_data(images), small(compile=compiled), observer=observer)
        runs.append((rows, gsnr_rows(observer)))
    for row, other in zip(runs[0][0], runs[1][0], strict=True):
        assert row[1:3] == pytest.approx(other[1:3], rel=1e-4)
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        assert one[3] == pytest.approx(other[3], rel=5e-3, abs=1e-7)
