import itertools
import math
import re
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import NoiseObserver, kernels
from rectify.gsnr.estimators import totals
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.observer import GsnrObserver
from rectify.rectified import auxiliary, insert, trunk_of
from rectify.runtime import generator, seed_globals
from rectify.tasks.classification import LabelledSource, mixing, mixup_of
from rectify.tasks.contract import Machine
from rectify.tasks.image_classification.augment import batched, normalise, per_image
from rectify.tasks.image_classification.operations import Drawing, operated
from rectify.tasks.image_classification.task import TASK
from rectify.training.loop import Interrupted, Loop
from rectify.training.order import item_order
from tests.helpers.training import (
    CPU,
    PLAIN,
    SMALL,
    Counter,
    Recorder,
    same,
    small,
    source_of,
    stored,
    timeless,
    trained,
    weights,
)
from tests.helpers.waits import Waits


def plain(pixels, draws):
    return normalise(pixels)


def losses(rows):
    return [value for row in rows for value in (row["train_loss"], row["main_loss"])]


def test_no_two_epochs_run_at_the_warm_up_rate(vit, images):
    rows = trained(vit, images, small(epochs=5, warmup_epochs=3, warmup_lr=1e-6))
    rates = [row["lr"] for row in rows]
    assert rates[0] == 1e-6
    assert all(rate > 1e-4 for rate in rates[1:])


@pytest.mark.parametrize("changes", [{"mixup": 0}, {"cutmix": 0}, {"mixup": 0, "mixup_prob": 0.5}])
def test_mixed_labels_meet_a_loss_for_soft_labels(make_vit, images, changes):
    """In Pang et al.'s code CutMix without Mixup handed soft targets to a loss for labels."""
    mixed_up = {**PLAIN, "cutmix": 1.0, "mixup": 0.8, **changes}
    values = small(**mixed_up, epochs=1, warmup_epochs=0, batch_size=40)
    model, other = make_vit(), make_vit()
    (row,) = trained(model, images, values, change=plain)
    items = item_order(40, 1, 0, 0)
    seed_globals(0, "step", 0, 0)
    mixed, soft = mixup_of(values, 5)(normalise(images.images[items]), images.labels[items])
    logits = other.train()(mixed).log_softmax(1)
    assert soft.shape == (40, 5)
    assert row["main_loss"] == pytest.approx(-(soft * logits).sum(1).mean().item(), rel=1e-5)


def test_every_epoch_and_step_has_its_own_augmentation(vit, images):
    recorder, values = Recorder(), small(**PLAIN)
    constant = images.images[:1].expand(40, -1, -1, -1).contiguous()
    source = LabelledSource(constant, images.labels, Machine(CPU), change=recorder)
    trained(vit, source, values)
    made = {tuple(batch.flatten().tolist()) for batch in recorder.made}
    assert len(made) == len(recorder.made) == 15


def test_the_observer_hears_of_the_samples_of_repeated_items(vit, images):
    observer = Counter()
    trained(vit, images, small(**PLAIN, augment_repeats=2), observer=observer)
    assert {samples for _, samples in observer.recorded} == {16}
    assert all(own.shape == (16, 1) and own.unique().numel() == 8 for own in observer.origins)


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_observer_hears_whose_pixels_are_in_each_sample(vit, images, repeats):
    observer = Counter()
    changes = {**PLAIN, "mixup": 0.8, "augment_repeats": repeats}
    trained(vit, images, small(**changes), observer=observer)
    for origins in observer.origins:
        assert torch.equal(origins[:, 1], origins[:, 0].flip(0))
        assert origins.unique().numel() == 8
    trained(vit, images, small(**PLAIN), observer=(plain_observer := Counter()))
    assert plain_observer.origins == 6 * [None]


def test_the_history_has_the_rate_of_the_head_under_layer_decay(vit, images):
    rows = trained(vit, images, small(**PLAIN, layer_decay=0.5, warmup_epochs=0))
    assert rows[0]["lr"] == pytest.approx(1e-3)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_one_epoch_equals_a_loop_by_hand(make_vit, images, clip):
    values = small(**PLAIN, epochs=1, warmup_epochs=0, label_smoothing=0.1, clip_gradient=clip)
    model, other = make_vit(), make_vit()
    (row,) = trained(model, images, values, change=plain)
    decayed = [p for n, p in other.named_parameters() if p.ndim > 1 and not n.endswith("_embed")
               and not n.endswith("_token")]  # fmt: skip
    free = [p for p in other.parameters() if not any(p is d for d in decayed)]
    groups = [{"params": free, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 1e-5}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    order, seen, norms = torch.randperm(40, generator=generator(0, "order", 0)), [], []
    for items in order.split(8):
        logits = other(normalise(images.images[items])).log_softmax(1)
        soft = torch.full((8, 5), 0.1 / 5)
        soft[range(8), images.labels[items]] += 0.9
        loss = -(soft * logits).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = sum(p.grad.square().sum() for p in other.parameters()).sqrt().item()
        for parameter in other.parameters():
            parameter.grad *= min(1.0, (clip or math.inf) / norm)
        optimizer.step()
        seen.append(loss.item())
        norms.append(norm)
    assert min(norms) > 0.05  # so every step of the second case was clipped
    tolerance = {} if clip is None else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(weights(model), weights(other), **tolerance)
    mean = pytest.approx(sum(seen) / 5)
    assert (row["train_loss"], row["main_loss"], row["auxiliary_loss"]) == (mean, mean, None)
    assert (row["epoch"], row["weight"], row["lr"]) == (0, 0.0, pytest.approx(1e-3))
    assert row["test"] == {"test_loss": 0.5}


def test_a_clipped_gradient_trains_another_model(make_vit, images):
    models = []
    for clip in (None, 1e-4, 1e3):
        models.append(make_vit())
        trained(models[-1], images, small(**PLAIN, clip_gradient=clip))
    assert same(weights(models[0]), weights(models[2]))  # never as long as that
    assert not same(weights(models[0]), weights(models[1]))


def test_the_history_has_both_losses_and_their_weighted_sum(vit, block, images):
    model = auxiliary(vit, block, generator=generator(0))
    rows = trained(model, images, small(), lambda_init=0.6)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["weight"] for row in rows] == pytest.approx([0.6, 0.4, 0.2])
    for row in rows:
        weight, main, second = row["weight"], row["main_loss"], row["auxiliary_loss"]
        assert row["train_loss"] == pytest.approx((1 - weight) * main + weight * second, rel=1e-5)


def test_training_learns_what_brightness_shows(vit, images):
    rows = trained(vit, images, small(**PLAIN, epochs=12, lr=5e-3), change=plain)
    assert rows[-1]["train_loss"] < 0.85 * rows[0]["train_loss"]


@pytest.mark.parametrize("variant", ["vanilla", "auxiliary"])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    make_vit, block, images, variant
):
    def run(seed):
        vit = make_vit(drop_path=0.3)
        vanilla = variant == "vanilla"
        model = vit if vanilla else auxiliary(vit, block, generator=generator(0))
        weight = 0.0 if vanilla else 0.35
        rows = trained(model, images, small(), seed=seed, lambda_init=weight)
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
@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    make_vit, block, images, done, lr_per_step
):
    values, states = small(lr_per_step=lr_per_step), []

    def model_and_observer(seed):
        model = auxiliary(make_vit(seed, drop_path=0.3), block, generator=generator(seed))
        return model, GsnrObserver(model.trunk.blocks, batches=2)

    model, observer = model_and_observer(0)
    more = {"lambda_init": 0.35, "observer": observer}
    rows = trained(model, images, values, **more, save=lambda state: states.append(stored(state)))
    assert len(states) == 3
    other, second = model_and_observer(7)  # other weights: all must come from the state
    torch.manual_seed(9)
    more = {"lambda_init": 0.35, "observer": second, "saved": states[done - 1]}
    assert trained(other, images, values, **more) == rows
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
        trained(build(vit), images, small(), lambda_init=0.35)
        seen.append(torch.cat(inputs))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_the_observer_is_called_on_exactly_the_measured_steps(vit, images):
    observer, steps = Counter(), []
    vit.register_forward_hook(lambda *call: steps.append(observer.watched))
    trained(vit, images, small(), observer=observer)
    assert observer.recorded == [(epoch, 8) for epoch in range(3) for _ in range(2)]
    inside = [after > before for before, after in zip([0, *steps[:-1]], steps, strict=True)]
    assert inside == [False, True, False, True, False] * 3


def test_observing_does_not_change_the_training(make_vit, images):
    alone, watched = make_vit(), make_vit()
    observer = GsnrObserver(watched.blocks, batches=3)
    rows = trained(alone, images, small())
    assert trained(watched, images, small(), observer=observer) == rows
    assert same(weights(alone), weights(watched))


@pytest.mark.parametrize("variant", ["vanilla", "auxiliary"])
@pytest.mark.parametrize("loss", ["total", "main"])
def test_a_pass_without_stochastic_depth_is_measured_apart(make_vit, block, images, variant, loss):
    """It changes no weight; the first step against single samples of a model in eval mode."""

    def model():
        vit = make_vit(drop_path=0.5)
        if variant == "vanilla":
            return vit
        return auxiliary(vit, block, generator=torch.Generator().manual_seed(0))

    values = small(**PLAIN, epochs=1, warmup_epochs=0, label_smoothing=0)
    second = {"vanilla": 0.0, "auxiliary": 0.4}[variant]
    alone, watched, start = model(), model(), model()
    observer = GsnrObserver(trunk_of(watched).blocks, batches=5, loss=loss, model="eval")
    more = {"change": plain, "lambda_init": second}
    rows = trained(alone, images, values, **more)
    assert trained(watched, images, values, observer=observer, **more) == rows
    assert same(weights(alone), weights(watched))
    start.eval()
    start.training = True  # both paths

    def criterion(outputs, labels):
        paths = outputs if variant == "auxiliary" else (outputs,)
        main, *rest = [cross_entropy(path, labels, reduction="none") for path in paths]
        return (1 - second) * main + second * rest[0] if rest and loss == "total" else main

    items = torch.randperm(40, generator=generator(0, "order", 0))[:8]
    inputs, labels = plain(images.images[items], None), images.labels[items]
    first = {"0": trunk_of(start).blocks["0"]}
    expected = totals(gradient_moments(start, inputs, labels, criterion, first), 1e-8, "test")
    found = next(sums for sums in observer.state_dict()["totals"] if sums["block"] == 0)
    for name in ("signal", "noise", "agreement"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-4)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_a_pass_with_hard_labels_sees_the_same_items_unmixed_and_draws_nothing(
    make_vit, images, drop_path
):
    """It changes no weight; its loss is that of the batch's own images and labels."""
    values = small(mixup=0.8, cutmix=1.0, label_smoothing=0.1, epochs=1, warmup_epochs=0)
    alone, watched = make_vit(drop_path=drop_path), make_vit(drop_path=drop_path)
    start = make_vit()
    observer = GsnrObserver(watched.blocks, batches=5, labels="hard")
    unmixed, seen = source_of(images, values.unmixed), []
    source = source_of(images, values)
    rows = trained(alone, source, values)
    read = unmixed.read

    def recorded(*places):
        for batch in read(*places):
            seen.append(batch)
            yield batch

    unmixed.read = recorded
    assert trained(watched, source, values, observer=observer, unmixed=unmixed) == rows
    assert same(weights(alone), weights(watched))
    order = torch.randperm(40, generator=generator(0, "order", 0))
    assert [batch["labels"].tolist() for batch in seen] == images.labels[order].view(5, 8).tolist()
    assert all("origins" not in batch for batch in seen)
    if drop_path:
        return
    criterion = partial(cross_entropy, reduction="none")
    inputs, labels = seen[0]["inputs"], seen[0]["labels"]
    moments = gradient_moments(start.train(), inputs, labels, criterion, {"0": start.blocks[0]})
    expected = totals(moments, 1e-8, "test")
    found = next(sums for sums in observer.state_dict()["totals"] if sums["block"] == 0)
    for name in ("signal", "noise", "agreement"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-4)


@pytest.mark.parametrize("done", [0, 1])
def test_images_prepared_by_workers_train_as_those_prepared_here_also_resumed(make_vit, done):
    """RandAugment, erasing and Mixup: everything that draws, on colour images of 20 pixels.

    The one that resumes computes RandAugment on the device.
    """
    pixels = torch.randint(0, 256, (24, 3, 20, 20), generator=generator(0), dtype=torch.uint8)
    values = small(auto_augment="rand-m9-mstd0.5-inc1", crop="resized", epochs=2)
    prepare = per_image(
        image_size=16, crop="resized", crop_scale=0.08, pad=4, flip_prob=0.5,
        auto_augment=values.auto_augment,
    )  # fmt: skip
    change, states = batched(crop="none", pad=0, flip_prob=0.0, erasing=0.5), []

    def run(workers, prepare, change, **more):
        model = make_vit(channels=3)
        machine, mix = Machine(CPU, workers), mixing(values, 5)
        source = LabelledSource(
            pixels, torch.arange(24) % 5, machine, change=change, prepare=prepare, mix=mix
        )
        return trained(model, source, values, **more), weights(model)

    rows, state = run(0, prepare, change, save=lambda state: states.append(stored(state)))
    if done:
        prepare, change = Drawing(prepare), operated(change)
    again, repeated = run(1, prepare, change, saved=states[0] if done else None)
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
@pytest.mark.parametrize("behind", [0, 1])
def test_a_loss_that_is_not_finite_names_epoch_and_step_and_is_in_no_state(
    make_vit, images, watched, behind, monkeypatch
):
    monkeypatch.setattr("rectify.training.loop.SAVE_SECONDS", 0.0)
    model, states = Diverges(make_vit(), 8), []
    observer = GsnrObserver(model.vit.blocks, batches=5) if watched else None
    save = {"save": lambda state: states.append(stored(state)), "observer": observer}
    message = "the loss must be finite, got nan in epoch 1, step 3. Lower training.lr"
    with pytest.raises(ValueError, match=re.escape(message)):
        trained(model, images, small(), behind=behind, **save)
    last = states[-1]
    assert (len(last["progress"]["rows"]), last["progress"]["step"]) == (1, 3)
    assert all(tensor.isfinite().all() for tensor in last["model"].values())


@pytest.mark.parametrize("reduced", [lambda losses: losses.mean(), lambda losses: losses[:4]])
def test_a_task_that_does_not_return_one_loss_per_sample_is_refused(
    vit, images, monkeypatch, reduced
):
    losses_of = type(TASK).losses

    def losses(self, outputs, batch):
        return reduced(losses_of(self, outputs, batch))

    monkeypatch.setattr(type(TASK), "losses", losses)
    with pytest.raises(ValueError, match="must return 8 losses, one per sample, got shape"):
        trained(vit, images, small())


def test_a_state_of_another_seed_or_format_is_one_line(vit, images):
    states = []
    trained(vit, images, small(), save=lambda state: states.append(stored(state)))
    for changes, got in (({"seed": 3}, "5 and 3"), ({"format": 0}, "0 and 0")):
        with pytest.raises(ValueError, match=f"of format 5 and seed 0, got {got}. Delete it"):
            trained(vit, images, small(), saved=states[0] | changes)


def test_each_epoch_is_reported_after_it_was_saved(vit, images):
    order = []
    save = {"save": lambda state: order.append(len(state["progress"]["rows"]))}
    rows = trained(vit, images, small(), **save, report=order.append)
    assert order[0::2] == [1, 2, 3]
    assert [timeless(row) for row in order[1::2]] == rows


def test_a_row_has_its_metrics_by_their_names(vit, block, images):
    reported = []
    test = {"evaluate": lambda model: {"test_loss": 2.0, "accuracy": 0.25}}
    model = auxiliary(vit, block, generator=generator(0))
    trained(model, images, small(epochs=2), lambda_init=0.4, report=reported.append, **test)
    metrics = reported[1].metrics()
    assert list(metrics) == [
        *("train_loss", "main_loss", "auxiliary_loss", "lambda", "lr"),
        *("train_seconds", "items_per_second", "test_loss", "accuracy"),
    ]
    assert (metrics["lambda"], metrics["accuracy"]) == (0.2, 0.25)
    seconds = metrics["train_seconds"]
    assert metrics["items_per_second"] == pytest.approx(40 / seconds)


def test_bfloat16_trains_close_to_float32(make_vit, images):
    rows = [
        trained(make_vit(), images, small(**PLAIN, precision=precision))
        for precision in ("float32", "bfloat16")
    ]
    assert rows[0] != rows[1]
    assert rows[0][-1]["train_loss"] == pytest.approx(rows[1][-1]["train_loss"], rel=0.02)


@pytest.mark.slow
def test_a_run_that_was_stopped_within_an_epoch_resumes_bit_by_bit(vit, images, make_vit):
    """Also the sums of its losses and its GSNR, of an epoch of five measured steps."""
    values = small(drop_path=0.3)
    observer = GsnrObserver(vit.blocks, batches=5)
    rows = trained(vit, images, values, observer=observer)
    steps, states = itertools.count(1), []

    def train_again(model, watch, **more):
        save = {"save": lambda state: states.append(stored(state)), "observer": watch}
        return trained(model, images, values, **save, **more)

    other = make_vit()
    first = GsnrObserver(other.blocks, batches=5)
    with pytest.raises(Interrupted, match=r"stopped in epoch 2 of 3 after step 3 of 5, and saved"):
        train_again(other, first, stop=lambda: next(steps) == 8)
    assert states[-1]["progress"]["step"] == 3
    fresh = make_vit(seed=9)
    second = GsnrObserver(fresh.blocks, batches=5)
    assert train_again(fresh, second, saved=states[-1]) == rows
    assert gsnr_rows(second) == gsnr_rows(observer)
    assert same(weights(fresh), weights(vit))


@pytest.mark.parametrize("lambda_init", [None, 0.3])
def test_steps_measured_or_not_wait_for_no_device(
    vit, images, block, monkeypatch, lambda_init
) -> None:
    """But the first measured one, in which it is looked at whether samples stay apart."""
    monkeypatch.setattr(kernels, "_without_idle_tokens", lambda *both: both)  # CPUs only
    model = vit if lambda_init is None else auxiliary(vit, block, generator=generator(0))
    blocks = trunk_of(model).blocks
    noise = NoiseObserver(blocks, samples=4)
    observer = GsnrObserver(blocks, batches=2, noise=noise)
    values = small(**PLAIN, clip_gradient=1.0)
    loop = Loop(model, TASK, source_of(images, values), values, seed=0, device=CPU,
                lambda_init=lambda_init or 0.0, observer=observer, noise=noise)  # fmt: skip
    batches = list(loop.epochs.read(0))
    taken = iter(batches * 2)
    assert len(loop.measured) == 2 < loop.epochs.steps
    started = [loop.step(taken, 0, step, 0.3, bool) for step in range(loop.epochs.steps)]
    with Waits() as waits:
        started += [loop.step(taken, 1, step, 0.3, bool) for step in range(loop.epochs.steps)]
    of_epoch, of_batch = ["cpu", "tolist"], ["tolist"]  # before: each has long been computed
    assert waits.calls == of_epoch + of_batch * len(loop.measured)
    assert all(math.isfinite(step.read()[0][0]) for step in started)


@pytest.mark.slow
def test_losses_that_are_read_a_step_later_change_no_bit(vit, images, make_vit):
    """A GPU computes a step while the loss of the one before is read: here on a CPU."""
    values, steps, states = small(drop_path=0.3), itertools.count(1), []
    rows = trained(vit, images, values)
    later = make_vit()
    assert trained(later, images, values, behind=1) == rows
    assert same(weights(later), weights(vit))
    with pytest.raises(Interrupted, match=r"stopped in epoch 2 of 3 after step 4 of 5, and saved"):
        trained(make_vit(), images, values, behind=1, stop=lambda: next(steps) == 8,
                save=lambda state: states.append(stored(state)))  # fmt: skip
    fresh = make_vit(seed=9)
    assert trained(fresh, images, values, behind=1, saved=states[-1]) == rows
    assert same(weights(fresh), weights(vit))


def gsnr_rows(observer):
    return [row for epoch in range(3) for row in observer.rows(epoch)]


def test_a_stop_in_the_last_step_of_an_epoch_resumes_with_its_evaluation(vit, images, make_vit):
    rows, states, steps = trained(vit, images, small()), [], itertools.count(1)
    save = {"save": lambda state: states.append(stored(state))}
    with pytest.raises(Interrupted, match="epoch 1 of 3 after step 5 of 5"):
        trained(make_vit(), images, small(), stop=lambda: next(steps) == 5, **save)
    assert trained(make_vit(seed=9), images, small(), saved=states[-1]) == rows


def test_a_long_epoch_is_saved_within(vit, images, monkeypatch):
    monkeypatch.setattr("rectify.training.loop.SAVE_SECONDS", 0.0)
    states = []
    trained(vit, images, small(epochs=2), save=lambda state: states.append(stored(state)))
    assert [state["progress"]["step"] for state in states] == [1, 2, 3, 4, 5, 0] * 2


@pytest.mark.slow
def test_accumulated_slices_take_the_steps_of_the_complete_batch(vit, images, make_vit):
    off = {"mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0}
    sliced = make_vit()
    observers = [GsnrObserver(model.blocks, batches=2) for model in (vit, sliced)]
    rows = trained(vit, images, small(**off), observer=observers[0])
    others = trained(sliced, images, small(**off, accumulate=4), observer=observers[1])
    assert losses(others) == pytest.approx(losses(rows), rel=1e-5)
    for row, other in zip(*map(gsnr_rows, observers), strict=True):
        assert other.gsnr == pytest.approx(row.gsnr, rel=2e-3, abs=1e-7)


COMPILED = pytest.mark.filterwarnings("ignore")  # of torch's compiler about what it does itself


@pytest.mark.slow
@COMPILED
def test_a_compiled_model_takes_the_same_steps_and_resumes_bit_by_bit(
    images, make_vit, monkeypatch
):
    """The first measured steps are eager; that they were there is in the state."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr("rectify.training.loop.SAVE_SECONDS", 0.0)
    torch._dynamo.reset()
    states = []

    def run(seed=0, compile=True, **options):
        model = make_vit(seed, overrides={"depth": 1})
        blocks = dict(model.blocks.named_children())
        noise = NoiseObserver(blocks, samples=4, compiled=compile)
        observer = GsnrObserver(blocks, batches=2, compiled=compile, noise=noise)
        values = small(compile=compile)  # with Mixup
        rows = trained(model, images, values, observer=observer, noise=noise, **options)
        assert observer.is_compiled == noise.is_compiled == compile
        return model, rows, gsnr_rows(observer), noise.rows()

    _, eager, measured, noise = run(compile=False)
    model, rows, again, other_noise = run(save=lambda state: states.append(stored(state)))
    assert losses(rows) == pytest.approx(losses(eager), rel=1e-4)
    for row, other in zip(measured, again, strict=True):
        assert other.gsnr == pytest.approx(row.gsnr, rel=5e-3, abs=1e-7)
    for row, other in zip(noise, other_noise, strict=True):
        assert other == row._replace(value=pytest.approx(row.value, rel=5e-3, abs=1e-6))
    saved = states[8]  # within the second epoch
    assert saved["progress"]["step"] == 3
    fresh, *resumed = run(seed=9, saved=saved)
    assert resumed == [rows, again, other_noise]
    assert same(weights(fresh), weights(model))


def test_a_training_takes_as_many_steps_as_its_recipe_has(vit, images):
    asked = []
    trained(vit, images, small(), stop=lambda: bool(asked.append(1)))
    assert len(asked) == SMALL["epochs"] * 5
