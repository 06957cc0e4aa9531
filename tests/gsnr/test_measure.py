"""Moments of one batch, asked for by name: against a loop over samples, or refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr.estimators import gsnr
from rectify.gsnr.measure import gradient_moments
from tests.helpers.moments import (
    SAMPLES,
    Pieces,
    assert_close,
    batch,
    loop,
    numbers,
    per_sample,
    vit,
)


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
    assert all(moments.mean.dtype == torch.float32 for moments in found.values())


def test_many_small_chunks_give_the_same_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = vit(), batch()
    expected = loop(model, images, labels, per_sample)
    for limit in (1, 4 * 16 * 64 * 8):  # one sample, and four of six
        monkeypatch.setattr("rectify.gsnr.kernels.CPU_SCRATCH_BYTES", limit)
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
    expected = gradients.mean() ** 2 / gradients.var(correction=0)
    assert float(gsnr(found)) == pytest.approx(expected.item())


def test_modules_are_chosen_by_name_by_object_or_renamed() -> None:
    model, data = vit(), batch()
    by_name = gradient_moments(model, *data, per_sample, ["blocks.1"])
    by_object = gradient_moments(model, *data, per_sample, [model.blocks[1]])
    renamed = gradient_moments(model, *data, per_sample, {"last": model.blocks[1]})
    assert by_name.keys() == by_object.keys() == {f"blocks.1{name[4:]}" for name in renamed}
    assert torch.equal(by_name["blocks.1.norm1.bias"].mean, renamed["last.norm1.bias"].mean)


def test_parameters_can_be_asked_for_by_name() -> None:
    model, data = vit(), batch()
    names = ["pos_embed", "cls_token", "patch_embed", "blocks.0.attn.qkv.weight"]
    found = gradient_moments(model, *data, per_sample, names)
    expected = loop(model, *data, per_sample, part="")
    chosen = {name for name in expected if name.startswith(tuple(names))}
    assert_close(found, {name: expected[name] for name in chosen}, 1e-10)
    with pytest.raises(ValueError, match=r"modules must be parts of .* got 'block'.* patch_embed"):
        gradient_moments(model, *data, per_sample, ["block"])
    with pytest.raises(ValueError, match=r"modules must be parts of .* got Linear"):
        gradient_moments(model, *data, per_sample, [nn.Linear(2, 2)])


def test_gradients_and_mode_are_left_as_found() -> None:
    model, (images, labels) = vit(), batch()
    model.blocks[0].train()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    gradient_moments(model, images, labels, per_sample, ["blocks"])
    assert (model.training, model.blocks[0].training) == (False, True)
    assert model.head.weight.grad.eq(1).all()
    assert model.blocks[0].norm1.bias.grad is None


def test_half_precision_gradients_are_summed_in_float32() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 5))
    inputs, labels = torch.randn(SAMPLES, 3, 5), batch()[1]
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return 1e-3 * per_sample(outputs.double().mean(1), targets)

    expected = gradient_moments(model.double(), inputs.double(), labels, criterion, model)
    found = gradient_moments(model.half(), inputs.half(), labels, criterion, model)
    for name, moments in found.items():
        assert moments.mean.dtype == torch.float32
        assert moments.variance.min() > 0, name  # squares of 1e-6 are 0 in float16
        assert (moments.variance / expected[name].variance).log().abs().max() < 0.5, name


def test_moments_are_float32_also_where_autocast_covers_the_backward_pass() -> None:
    model, (images, labels) = vit(torch.float32), batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    kinds = {values.dtype for m in found.values() for values in (m.mean, m.variance)}
    assert kinds == {torch.float32}


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
        ValueError, match=r"unused must run once .* got 0 runs and gradients of 0 of 6"
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


def test_a_layer_of_sequences_before_samples_is_refused_by_name() -> None:
    model = Pieces(lambda first, second, x: second(first(x.mT.mT).transpose(0, 1)).mean(0))
    with pytest.raises(ValueError, match=r"second must run once .* gradients of 4 of 6"):
        gradient_moments(model, numbers(4, 5), batch()[1], per_sample, model)


@pytest.mark.parametrize(
    "run",
    [
        lambda first, second, x: nn.functional.linear(first(x).tanh(), first.weight),
        lambda first, second, x: second(first(x)) @ first.weight,
    ],
)
def test_a_parameter_that_is_used_elsewhere_too_is_refused_by_name(run: Callable) -> None:
    model = Pieces(run)
    with pytest.raises(ValueError, match=r"the gradient of first\.weight must come from its own"):
        gradient_moments(model, numbers(5), batch()[1], per_sample, ["first"])
    model.second.weight = model.first.weight
    model.run = lambda first, second, x: second(first(x).tanh())
    with pytest.raises(ValueError, match=r"first\.weight must come from .* It is tied"):
        gradient_moments(model, numbers(5), batch()[1], per_sample, ["first"])


def test_a_norm_over_the_batch_is_refused_anywhere_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double()
    data = numbers(5), batch()[1]
    with pytest.raises(ValueError, match=r"1 must treat each sample separately, got BatchNorm1d"):
        gradient_moments(model, *data, per_sample, ["0"])
    model.eval()
    found = gradient_moments(model, *data, per_sample, ["0"])
    assert_close(found, loop(model, *data, per_sample, part="0"), 1e-10)


def test_the_criterion_must_give_one_loss_per_sample() -> None:
    with pytest.raises(ValueError, match="criterion must return 6 losses"):
        gradient_moments(vit(), *batch(), cross_entropy, ["blocks"])
