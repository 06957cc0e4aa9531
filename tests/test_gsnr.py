"""GSNR: the moments against a loop over samples, the estimators against their formulas."""

import json
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import ESTIMATORS, GradientMoments, GsnrObserver, Moments, gradient_moments, gsnr

SAMPLES = 6


def vit(dtype: torch.dtype = torch.float64, **settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    settings = {"embed_dim": 16, "num_heads": 2, "depth": 2, "num_classes": 5, **settings}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, **settings
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains away from 0 and 1
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype).eval()


def batch(dtype: torch.dtype = torch.float64, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 1, 8, 8, generator=draws, dtype=torch.float64)
    return images.to(dtype), torch.randint(5, (samples,), generator=draws)


def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def loop(
    model: nn.Module, inputs: Tensor, targets: Tensor, criterion: Callable, part: str = "blocks"
) -> dict[str, tuple[Tensor, Tensor]]:
    """The slow oracle: one backward pass per sample."""
    found = {}
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(part) and p.requires_grad]
    for i in range(len(inputs)):
        loss = criterion(model(inputs[i : i + 1]), targets[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named])
        for (name, _), gradient in zip(named, gradients, strict=True):
            found.setdefault(name, []).append(gradient)
    stacks = {name: torch.stack(gradients) for name, gradients in found.items()}
    return {name: (g.mean(0), g.var(0, correction=0)) for name, g in stacks.items()}


def assert_close(
    found: dict[str, Moments], expected: dict[str, tuple[Tensor, Tensor]], tolerance: float
) -> None:
    assert found.keys() == expected.keys()
    for name, (mean, variance) in expected.items():
        for own, other in ((found[name].mean, mean), (found[name].variance, variance)):
            if name.endswith("qkv.bias"):
                own, other = (torch.cat(values.chunk(3)[::2]) for values in (own, other))
            assert (own - other).norm() <= tolerance * other.norm(), name


def moments_of(gradients: Tensor) -> dict[str, Moments]:
    variance = gradients.var(0, correction=0)
    return {"weight": Moments(gradients.mean(0), variance, len(gradients))}


@pytest.mark.parametrize("settings", [{}, {"init_values": 0.3}, {"depth": 1, "qkv_bias": False}])
def test_the_moments_equal_a_loop_over_samples(settings: dict) -> None:
    model, (images, labels) = vit(**settings), batch()
    found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)


def test_fp32_moments_equal_the_fp64_loop_after_some_training_steps() -> None:
    model, (images, labels) = vit(torch.float32, init_values=0.3), batch(torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    found = gradient_moments(model, images, labels, per_sample, model.blocks)
    expected = loop(model.double(), images.double(), labels, per_sample)
    assert_close(found, expected, 1e-4)
    assert all(one.mean.dtype == torch.float32 for one in found.values())


def test_many_small_chunks_give_the_same_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = vit(), batch()
    expected = loop(model, images, labels, per_sample)
    for limit in (1, 4 * 16 * 64 * 8):  # one sample, and four of six
        monkeypatch.setattr("rectify.gsnr.CPU_SCRATCH_BYTES", limit)
        found = gradient_moments(model, images, labels, per_sample, ["blocks"])
        assert_close(found, expected, 1e-10)


def test_inputs_without_tokens_are_measured_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 5)).double()
    inputs, labels = torch.randn(SAMPLES, 3, dtype=torch.float64), batch()[1]
    found = gradient_moments(model, inputs, labels, per_sample, model)
    assert_close(found, loop(model, inputs, labels, per_sample, part=""), 1e-10)


def test_a_linear_model_has_the_moments_of_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    inputs = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    targets = torch.tensor([0.5, 1.0, -1.0], dtype=torch.float64)
    found = gradient_moments(
        model, inputs, targets, lambda y, t: (y[:, 0] - t).square() / 2, {"line": model}
    )
    gradients = (model.weight.item() * inputs[:, 0] - targets) * inputs[:, 0]
    assert found["line.weight"].mean.item() == pytest.approx(gradients.mean().item())
    assert found["line.weight"].variance.item() == pytest.approx(gradients.var(correction=0).item())
    assert gsnr(found) == pytest.approx(
        (gradients.mean() ** 2 / gradients.var(correction=0)).item()
    )


def test_modules_are_chosen_by_name_by_object_or_renamed() -> None:
    model, data = vit(), batch()
    by_name = gradient_moments(model, *data, per_sample, ["blocks.1"])
    by_object = gradient_moments(model, *data, per_sample, [model.blocks[1]])
    renamed = gradient_moments(model, *data, per_sample, {"last": model.blocks[1]})
    assert by_name.keys() == by_object.keys() == {f"blocks.1{name[4:]}" for name in renamed}
    assert torch.equal(by_name["blocks.1.norm1.bias"].mean, renamed["last.norm1.bias"].mean)


def test_gradients_and_mode_are_left_as_found() -> None:
    model, (images, labels) = vit(), batch()
    model.blocks[0].train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    gradient_moments(model, images, labels, per_sample, ["blocks"])
    assert (model.training, model.blocks[0].training) == (False, True)
    assert model.head.weight.grad.eq(1).all()
    assert model.blocks[0].norm1.bias.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_training_gradient_is_the_same_bit_for_bit(dtype: torch.dtype) -> None:
    model, (images, labels) = vit(dtype, init_values=0.3), batch(dtype)
    cross_entropy(model(images), labels).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with GradientMoments(model.blocks):
        cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name


def test_gradients_accumulated_before_do_not_enter_the_mean() -> None:
    model, (images, labels) = vit(), batch()
    expected = loop(model, images, labels, per_sample)
    cross_entropy(model(images.flip(-1)), labels).backward()
    watched = GradientMoments({"blocks": model.blocks})
    with watched:
        cross_entropy(model(images), labels).backward()
    assert_close(watched.moments(), expected, 1e-10)


def test_frozen_parameters_are_skipped() -> None:
    model, (images, labels) = vit(), batch()
    model.blocks[0].mlp.requires_grad_(False)
    model.blocks[1].norm1.weight.requires_grad_(False)
    found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)
    assert "blocks.1.norm1.bias" in found


def test_bfloat16_autocast_stays_near_the_fp32_moments() -> None:
    model, (images, labels) = vit(torch.float32), batch(torch.float32, samples=32)
    expected = gsnr(gradient_moments(model, images, labels, per_sample, ["blocks"]))
    watched = GradientMoments(model.blocks)
    with watched:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model(images), labels)
        loss.backward()
    assert gsnr(watched.moments()) == pytest.approx(expected, rel=0.05)


def test_no_hook_is_left_behind() -> None:
    model, (images, labels) = vit(), batch()

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    watched = GradientMoments(model.blocks)
    with watched:
        assert hooks() == 12
        loss = cross_entropy(model(images), labels)
    assert hooks() == 0
    loss.backward()  # after the context: nothing is gathered
    with pytest.raises(ValueError, match="must run once"):
        watched.moments()
    with pytest.raises(AssertionError, match="Input height"), watched:
        model(images[..., :4, :])
    assert hooks() == 0


def test_a_module_of_another_type_is_refused_by_name() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv1d(2, 2, 1)))
    with pytest.raises(ValueError, match=r"blocks\.1\.0 must be a Linear.*got Conv1d"):
        GradientMoments({"blocks": block})
    with pytest.raises(ValueError, match=r"the module must be .* got MultiheadAttention"):
        GradientMoments(nn.MultiheadAttention(4, 2))
    block[1].requires_grad_(False)
    assert len(GradientMoments({"blocks": block}).parameters) == 2


def test_nothing_to_measure_or_a_shared_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0, 0 of them distinct"):
        GradientMoments(nn.GELU())
    one = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="got 4, 2 of them distinct"):
        GradientMoments({"first": one, "second": one})


def test_a_module_must_run_exactly_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line, self.unused = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, values: Tensor) -> Tensor:
            return self.line(self.line(values))

    model, inputs, labels = Twice(), torch.randn(SAMPLES, 5), batch()[1]
    with pytest.raises(
        ValueError, match=r"line must run once .* got 2 runs and gradients of 6 of 6"
    ):
        gradient_moments(model, inputs, labels, per_sample, ["line"])
    with pytest.raises(
        ValueError, match=r"unused must run once .* got 0 runs and gradients of 0 of 0"
    ):
        gradient_moments(model, inputs, labels, per_sample, ["unused"])


def test_a_module_that_folds_the_batch_is_refused() -> None:
    class Folds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)

        def forward(self, values: Tensor) -> Tensor:
            folded = self.second(self.first(values).reshape(2, -1, 5))
            return folded.reshape(SAMPLES, 5)

    model = Folds()
    with pytest.raises(ValueError, match=r"second must run once .* gradients of 2 of 6"):
        gradient_moments(model, torch.randn(SAMPLES, 5), batch()[1], per_sample, model)


def test_the_criterion_must_give_one_loss_per_sample() -> None:
    with pytest.raises(ValueError, match="criterion must return 6 losses"):
        gradient_moments(vit(), *batch(), cross_entropy, ["blocks"])


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
