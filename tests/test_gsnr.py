"""GSNR: the estimators against their formulas, the observer against single batches."""

import json
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gradients import Moments
from rectify.gsnr import ESTIMATORS, GsnrObserver, gradient_moments, gsnr
from tests.moments import SAMPLES, batch, per_sample, vit


def moments_of(gradients: Tensor) -> dict[str, Moments]:
    variance = gradients.var(0, correction=0)
    return {"weight": Moments(gradients.mean(0), variance, len(gradients))}


def test_each_estimator_follows_its_formula() -> None:
    draws = torch.Generator().manual_seed(0)
    g = torch.randn(8, 50, generator=draws, dtype=torch.float64) + 0.3
    mean, population, sample = g.mean(0), g.var(0, correction=0), g.var(0)
    expected = {
        "plain": (mean**2 / population).mean(),
        "debiased": (mean**2 - sample / 8).sum() / sample.sum(),
        "xi": (mean**2 / (population + 0.5)).mean(),
        "unnormalised": (mean**2 / ((g**2).sum(0) - mean**2)).mean(),
    }
    assert set(expected) == set(ESTIMATORS)
    for estimator, value in expected.items():
        found = gsnr(moments_of(g), estimator, xi=0.5)
        assert found == pytest.approx(value.item(), rel=1e-12)
        assert (found.parameters, found.dropped) == (50, 0)


def test_pure_noise_scores_one_over_samples_plain_and_zero_debiased() -> None:
    samples, parameters = 64, 20_000
    noise = torch.randn(samples, parameters, generator=torch.Generator().manual_seed(0))
    moments = moments_of(noise)
    # mean^2 / variance is F(1, samples - 1) / (samples - 1), of mean 1 / (samples - 3)
    assert gsnr(moments) == pytest.approx(1 / (samples - 3), rel=0.04)
    assert gsnr(moments, "debiased") == pytest.approx(0, abs=4 * 2**0.5 / 64 / parameters**0.5)
    assert gsnr(moments, "unnormalised") == pytest.approx(1 / samples**2, rel=0.08)


def test_a_larger_loss_changes_the_estimator_with_xi_only() -> None:
    model, (images, labels) = vit(), batch()
    once = gradient_moments(model, images, labels, per_sample, ["blocks"])
    more = gradient_moments(model, images, labels, lambda *a: 1000 * per_sample(*a), ["blocks"])
    for estimator in ("plain", "debiased", "unnormalised"):
        assert gsnr(more, estimator) == pytest.approx(gsnr(once, estimator), rel=1e-9)
    assert gsnr(more, "xi", xi=1.0) > 2 * gsnr(once, "xi", xi=1.0)
    assert gsnr(more, "xi", xi=1.0) == pytest.approx(gsnr(once, "xi", xi=1e-6), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_samples_have_no_variance_and_are_refused(dtype: torch.dtype) -> None:
    model, (images, labels) = vit(dtype), batch(dtype)
    images, labels = images[:1].repeat(64, 1, 1, 1), labels[:1].repeat(64)
    found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    del found["blocks.0.attn.qkv.bias"], found["blocks.1.attn.qkv.bias"]  # key: rounding noise
    with pytest.raises(ValueError, match="some gradient must vary over the samples, got none"):
        gsnr(found)


def test_parameters_without_variance_are_dropped_and_counted() -> None:
    g = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]])
    for estimator in ESTIMATORS:
        found = gsnr(moments_of(g), estimator)
        assert found == pytest.approx(gsnr(moments_of(g[:, [0, 2]]), estimator))
        assert (found.parameters, found.dropped) == (3, 1)


def test_the_key_bias_is_no_parameter() -> None:
    g = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    (all_three,) = moments_of(g).values()
    (without_key,) = moments_of(g[:, [0, 1, 2, 6, 7, 8]]).values()
    found = gsnr({"0.attn.qkv.bias": all_three})
    assert found == pytest.approx(gsnr({"0.attn.proj.bias": without_key}))
    assert (found.parameters, found.dropped) == (6, 0)
    found = gsnr({"query.bias": without_key, "key.bias": all_three, "k_proj.bias": all_three})
    assert (found.parameters, found.dropped) == (6, 0)


def test_a_value_can_be_stored() -> None:
    found = gsnr(moments_of(torch.randn(5, 9)))
    again = pickle.loads(pickle.dumps(found))
    assert (again, again.parameters, again.dropped) == (found, 9, 0)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="estimator must be one of plain, debiased, xi, unnorm"):
        gsnr(moments_of(torch.randn(3, 2)), "mean")
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        gsnr(moments_of(torch.randn(1, 2)))
    with pytest.raises(ValueError, match="gradients must be finite"):
        gsnr(moments_of(torch.tensor([[1.0, torch.inf], [2.0, 0.0]])))


def observed(observer: GsnrObserver, model: nn.Module, epoch: int, shift: int) -> None:
    images, labels = batch()
    with observer.watch():
        cross_entropy(model(images.roll(shift, -1)), labels).backward()
    observer.record(epoch, len(images))


def test_the_observer_averages_over_its_batches() -> None:
    model, (images, labels) = vit(), batch()
    observer = GsnrObserver(model.blocks, batches=2, xi=1e-6)
    observed(observer, model, epoch=3, shift=0)
    observed(observer, model, epoch=3, shift=1)
    rows = observer.rows(3)
    assert [row[:3] for row in rows] == [(3, b, e) for b in (0, 1) for e in ESTIMATORS]
    for _, block, estimator, value, parameters, dropped in rows:
        part = [f"blocks.{block}"]
        views = [images.roll(shift, -1) for shift in (0, 1)]
        batches = [gradient_moments(model, view, labels, per_sample, part) for view in views]
        values = [gsnr(moments, estimator, 1e-6) for moments in batches]
        assert value == pytest.approx(sum(values) / 2, rel=1e-9)
        own = sum(parameter.numel() for parameter in model.blocks[block].parameters())
        assert (parameters, dropped) == (own - 16, 0)  # less the key bias


def test_the_observer_goes_on_from_its_state() -> None:
    model = vit()
    through, first = GsnrObserver(model.blocks, 2), GsnrObserver(model.blocks, 2)
    for observer in (through, first):
        observed(observer, model, epoch=0, shift=0)
    second = GsnrObserver(model.blocks, 2)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for observer in (through, second):
        observed(observer, model, epoch=0, shift=1)
    assert second.rows(0) == through.rows(0)
    with pytest.raises(ValueError, match=r"epoch 0 must have 2 measured batches, got 1\."):
        first.rows(0)
    with pytest.raises(ValueError, match=r"the state must have .*'batches': 3"):
        GsnrObserver(model.blocks, 3).load_state_dict(first.state_dict())


def test_measured_steps_are_spread_evenly() -> None:
    blocks = vit().blocks
    assert GsnrObserver(blocks, 1).measured_steps(9) == {4}
    assert GsnrObserver(blocks, 5).measured_steps(100) == {10, 30, 50, 70, 90}
    for steps in range(7, 40):
        measured = GsnrObserver(blocks, 7).measured_steps(steps)
        assert len(measured) == 7
        assert measured <= set(range(steps))
    with pytest.raises(ValueError, match=r"batches must lie in 1\.\.6, .* got 7"):
        GsnrObserver(blocks, 7).measured_steps(6)


def test_a_record_needs_its_own_watched_batch() -> None:
    model = vit()
    observer = GsnrObserver(model.blocks, 1)
    with pytest.raises(ValueError, match="watched batch of 6 samples, got none"):
        observer.record(0, SAMPLES)
    observed(observer, model, 0, 0)
    with pytest.raises(ValueError, match="got none"):
        observer.record(0, SAMPLES)
    with observer.watch():
        cross_entropy(model(batch()[0]), batch()[1]).backward()
    with pytest.raises(ValueError, match=r"watched batch of 7 samples, got \[6\]"):
        observer.record(0, 7)


def test_the_observer_takes_a_batch_in_parts() -> None:
    model, (images, labels) = vit(), batch(samples=8)
    whole, parts = GsnrObserver(model.blocks, 1), GsnrObserver(model.blocks, 1)
    observed_part(whole, model, images, labels, 1.0)
    for some in (slice(0, 3), slice(3, 8)):
        observed_part(parts, model, images[some], labels[some], len(labels[some]) / 8)
    for observer in (whole, parts):
        observer.record(0, 8)
    for one, other in zip(whole.rows(0), parts.rows(0), strict=True):
        assert one[3] == pytest.approx(other[3], rel=1e-9)
        assert (one[:3], one[4:]) == (other[:3], other[4:])


def observed_part(
    observer: GsnrObserver, model: nn.Module, images: Tensor, labels: Tensor, scale: float
) -> None:
    with observer.watch(scale):
        (scale * cross_entropy(model(images), labels)).backward()


@pytest.mark.parametrize("mode", ["observe", "replace"])
def test_both_modes_record_the_same(mode: str) -> None:
    model, (images, labels) = vit(), batch()
    observer = GsnrObserver(model.blocks, 1, mode=mode)
    observed(observer, model, epoch=0, shift=0)
    for _, block, estimator, value, *_ in observer.rows(0):
        moments = gradient_moments(model, images, labels, per_sample, [f"blocks.{block}"])
        assert value == pytest.approx(gsnr(moments, estimator), rel=1e-9)


def test_the_observer_measures_the_loss_that_it_is_asked_for() -> None:
    model, (images, labels) = vit(), batch()

    def losses() -> tuple[Tensor, Tensor]:
        outputs = model(images)
        return cross_entropy(outputs, labels), outputs.square().mean(1).mean()

    def alone(loss: str) -> Tensor:
        criterion = {
            "main": per_sample,
            "auxiliary": lambda outputs, _: outputs.square().mean(1),
            "total": lambda outputs, targets: (
                per_sample(outputs, targets) + outputs.square().mean(1)
            ),
        }[loss]
        return gsnr(gradient_moments(model, images, labels, criterion, ["blocks.1"]), "xi")

    for loss in ("total", "main", "auxiliary"):
        observer = GsnrObserver(model.blocks, 1, loss=loss)
        with observer.watch():
            main, auxiliary = losses()
            observer.losses(main, auxiliary)
            (main + auxiliary).backward()
        observer.record(0, SAMPLES)
        (value,) = (row[3] for row in observer.rows(0) if row[1:3] == (1, "xi"))
        assert value == pytest.approx(alone(loss), rel=1e-9)
        with observer.watch():  # one path: its loss, whatever is asked for
            main, _ = losses()
            observer.losses(main, None)
            main.backward()
        observer.record(1, SAMPLES)
        (value,) = (row[3] for row in observer.rows(1) if row[1:3] == (1, "xi"))
        assert value == pytest.approx(alone("main"), rel=1e-9)


@pytest.mark.parametrize("loss", ["total", "main", "auxiliary"])
def test_each_loss_of_a_batch_in_parts_is_that_of_the_whole(loss: str) -> None:
    model, (images, labels) = vit(), batch(samples=8)

    def rows(parts: int) -> list[tuple]:
        observer = GsnrObserver(model.blocks, 1, loss=loss)
        for some, labels_of_some in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with observer.watch(1 / parts):
                outputs = model(some)
                main, auxiliary = cross_entropy(outputs, labels_of_some), outputs.square().mean()
                observer.losses(main, auxiliary)
                ((main + auxiliary) / parts).backward()
        observer.record(0, 8)
        return observer.rows(0)

    for one, other in zip(rows(1), rows(4), strict=True):
        assert one[:3] == other[:3]
        assert one[3] == pytest.approx(other[3], rel=1e-9)


def test_losses_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"loss must be one of total, main, auxiliary.*got 'aux'"):
        GsnrObserver(vit().blocks, 1, loss="aux")
    with pytest.raises(ValueError, match="total where mode is replace, got 'main' and 'replace'"):
        GsnrObserver(vit().blocks, 1, mode="replace", loss="main")
