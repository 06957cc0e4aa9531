"""Group, instance, batch and RMS norms: against a loop over samples, or refused."""

from collections.abc import Callable

import pytest
from torch import nn

from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments
from tests.helpers.moments import BOTH_MODES, Means, assert_close, batch, loop, numbers, per_sample

LABELS = batch()[1]
OF_CHANNELS: list[Callable[[], nn.Module]] = [
    lambda: nn.GroupNorm(2, 6),
    lambda: nn.GroupNorm(6, 6, eps=0.1),
    lambda: nn.InstanceNorm1d(6, affine=True),
    lambda: nn.InstanceNorm1d(6, affine=True, track_running_stats=True),
    lambda: nn.BatchNorm1d(6, eps=0.1),
]


@pytest.mark.parametrize("norm", OF_CHANNELS)
def test_norms_of_channels_are_measured(norm: Callable[[], nn.Module]) -> None:
    model, inputs = Means(norm(), features=1).eval(), numbers(6, 7)
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 2)
    assert not GradientMoments(model).generic
    moments = gradient_moments(model, inputs, LABELS, per_sample, model)
    assert_close(moments, loop(model, inputs, LABELS, per_sample, part=""), 1e-10)


def test_an_instance_norm_in_training_keeps_its_statistics() -> None:
    norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    model, inputs = Means(norm, features=1), numbers(6, 3, 4)
    expected = loop(model, inputs, LABELS, per_sample, part="")
    model.layer.reset_running_stats()
    model(inputs)
    once = model.layer.running_mean.clone()
    model.layer.reset_running_stats()
    found = gradient_moments(model, inputs, LABELS, per_sample, model)
    assert model.layer.running_mean.equal(once)
    assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, affine=False),
                                  nn.BatchNorm1d(5, track_running_stats=False).eval()])  # fmt: skip
@BOTH_MODES
def test_a_norm_of_the_batch_is_refused_in_training(norm: nn.Module, mode: str) -> None:
    model = nn.Sequential(nn.Linear(5, 5), norm, nn.Linear(5, 5)).double()
    watched = GradientMoments(model, mode)  # eval() may yet be called
    with (
        pytest.raises(ValueError, match=r"1 must treat each sample separately, got Batch"),
        watched,
    ):
        pass
    assert not model[0]._forward_hooks


@pytest.mark.parametrize("tokens", [(), (3,), (2, 4)])
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_rms_norms_are_measured(tokens: tuple[int, ...], epsilon: float | None) -> None:
    model, inputs = Means(nn.RMSNorm(5, eps=epsilon)), numbers(*tokens, 5)
    moments = gradient_moments(model, inputs, LABELS, per_sample, model)
    assert_close(moments, loop(model, inputs, LABELS, per_sample, part=""), 1e-10)


def test_rms_norms_of_transformers_are_measured() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    for norm in (LlamaRMSNorm(5, eps=0.1), Qwen3RMSNorm(5)):
        model, inputs = Means(norm), numbers(3, 5)
        assert not GradientMoments(model).generic
        moments = gradient_moments(model, inputs, LABELS, per_sample, model)
        assert_close(moments, loop(model, inputs, LABELS, per_sample, part=""), 1e-9)
        half, narrow = Means(type(norm)(5)).bfloat16(), inputs.bfloat16()
        found = gradient_moments(half, narrow, LABELS, per_sample, half)
        assert_close(found, loop(half, narrow, LABELS, per_sample, part=""), 0.03)


def test_linear_layers_of_gpt2_are_measured() -> None:
    from transformers.pytorch_utils import Conv1D

    for tokens in ((), (3,), (2, 4)):
        model, inputs = Means(Conv1D(4, 5)), numbers(*tokens, 5)
        assert not GradientMoments(model).generic
        moments = gradient_moments(model, inputs, LABELS % 4, per_sample, model)
        assert_close(moments, loop(model, inputs, LABELS % 4, per_sample, part=""), 1e-10)
