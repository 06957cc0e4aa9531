"""The estimators of GSNR against their formulas."""

import pickle

import pytest
import torch
from torch import Tensor

from rectify.gsnr.estimators import ESTIMATORS, gsnr, totals
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import Linked, Moments
from tests.helpers.moments import agreement, batch, per_sample, vit


def moments_of(gradients: Tensor, origins: Tensor | None = None) -> dict[str, Moments]:
    variance = gradients.var(0, correction=0)
    linked = None
    if origins is not None:
        sets = [set(numbers) for numbers in origins.tolist()]
        pairs = [(i, j) for i in range(len(sets)) for j in range(len(sets)) if sets[i] & sets[j]]
        linked = Linked(sum(gradients[i] * gradients[j] for i, j in pairs), len(pairs))
    return {"weight": Moments(gradients.mean(0), variance, len(gradients), linked)}


def value_of(moments: dict[str, Moments], estimator: str = "plain", xi: float = 1e-8) -> float:
    return float(gsnr(moments, estimator, xi))


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
        result = gsnr(moments_of(g), estimator, xi=0.5)
        assert float(result) == pytest.approx(value.item(), rel=1e-12)
        assert (result.parameters, result.dropped) == (50, 0)


def test_signal_and_noise_are_sums_over_the_parameters_that_vary() -> None:
    draws = torch.Generator().manual_seed(0)
    g = torch.randn(8, 50, generator=draws, dtype=torch.float64) + 0.3
    g[:, 7] = 4.0
    sums = totals(moments_of(g), 1e-8, "test")
    varying = g[:, torch.arange(50) != 7]
    assert sums.signal == pytest.approx((varying.mean(0) ** 2).sum().item(), rel=1e-12)
    assert sums.noise == pytest.approx(varying.var(0, correction=0).sum().item(), rel=1e-12)
    assert (sums.samples, sums.parameters, sums.varying) == (8, 50, 49)


@pytest.mark.parametrize(
    "shared", [[0, 1, 2, 3, 3, 2, 1, 0], [0, 0, 0, 1, 1, 2, 2, 2], [*range(8)]]
)
def test_debiased_compares_samples_that_share_nothing(shared: list[int]) -> None:
    origins = torch.tensor(shared)[:, None]
    draws = torch.Generator().manual_seed(0)
    g = torch.randn(8, 50, generator=draws, dtype=torch.float64) + 0.3
    product = agreement(g, origins).sum()
    expected = product / ((g**2).mean(0).sum() - product)
    found = gsnr(moments_of(g, origins), "debiased")
    assert float(found) == pytest.approx(expected.item(), rel=1e-12)
    if shared == [*range(8)]:
        assert float(gsnr(moments_of(g), "debiased")) == pytest.approx(expected.item(), rel=1e-12)


def test_samples_that_are_all_linked_are_refused() -> None:
    with pytest.raises(ValueError, match="some of the 4 samples must share nothing"):
        gsnr(moments_of(torch.randn(4, 2), torch.zeros(4, 1)))


def test_several_batches_are_summed_before_debiased_divides() -> None:
    draws = torch.Generator().manual_seed(0)
    batches = [torch.randn(8, 50, generator=draws, dtype=torch.float64) * s for s in (1, 3)]
    sums = [totals(moments_of(g), 1e-8, "test") for g in batches]
    product = sum(agreement(g, torch.arange(8)[:, None]).sum() for g in batches)
    squares = sum((g**2).mean(0).sum() for g in batches)
    expected = {"debiased": product / (squares - product)}
    for name in ("plain", "xi", "unnormalised"):
        expected[name] = sum(value_of(moments_of(g), name) for g in batches) / 2
    for name, value in expected.items():
        assert ESTIMATORS[name](sums) == pytest.approx(float(value), rel=1e-12)


def test_pure_noise_scores_one_over_samples_plain_and_zero_debiased() -> None:
    samples, parameters = 64, 20_000
    noise = torch.randn(samples, parameters, generator=torch.Generator().manual_seed(0))
    moments = moments_of(noise)
    # mean^2 / variance is F(1, samples - 1) / (samples - 1), of mean 1 / (samples - 3)
    assert value_of(moments) == pytest.approx(1 / (samples - 3), rel=0.04)
    assert value_of(moments, "debiased") == pytest.approx(0, abs=4 * 2**0.5 / 64 / parameters**0.5)
    assert value_of(moments, "unnormalised") == pytest.approx(1 / samples**2, rel=0.08)


def test_a_larger_loss_changes_the_estimator_with_xi_only() -> None:
    model, (images, labels) = vit(), batch()
    once = gradient_moments(model, images, labels, per_sample, ["blocks"])
    more = gradient_moments(model, images, labels, lambda *a: 1000 * per_sample(*a), ["blocks"])
    for estimator in ("plain", "debiased", "unnormalised"):
        assert value_of(more, estimator) == pytest.approx(value_of(once, estimator), rel=1e-9)
    assert value_of(more, "xi", xi=1.0) > 2 * value_of(once, "xi", xi=1.0)
    assert value_of(more, "xi", xi=1.0) == pytest.approx(value_of(once, "xi", xi=1e-6), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_samples_have_no_variance_and_are_refused(dtype: torch.dtype) -> None:
    model, (images, labels) = vit(dtype), batch(dtype)
    images, labels = images[:1].repeat(64, 1, 1, 1), labels[:1].repeat(64)
    moments = gradient_moments(model, images, labels, per_sample, ["blocks"])
    del moments["blocks.0.attn.qkv.bias"], moments["blocks.1.attn.qkv.bias"]  # key: rounding noise
    with pytest.raises(ValueError, match="some gradient must vary over the samples, got none"):
        gsnr(moments)


def test_parameters_without_variance_are_dropped_and_counted() -> None:
    g = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 4.0]])
    for estimator in ESTIMATORS:
        result = gsnr(moments_of(g), estimator)
        assert float(result) == pytest.approx(value_of(moments_of(g[:, [0, 2]]), estimator))
        assert (result.parameters, result.dropped) == (3, 1)


def test_the_key_bias_is_no_parameter() -> None:
    g = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    (all_three,) = moments_of(g).values()
    (without_key,) = moments_of(g[:, [0, 1, 2, 6, 7, 8]]).values()
    result = gsnr({"0.attn.qkv.bias": all_three})
    assert float(result) == pytest.approx(value_of({"0.attn.proj.bias": without_key}))
    assert (result.parameters, result.dropped) == (6, 0)
    result = gsnr({"query.bias": without_key, "key.bias": all_three, "k_proj.bias": all_three})
    assert (result.parameters, result.dropped) == (6, 0)


def test_a_value_can_be_stored_and_printed() -> None:
    result = gsnr(moments_of(torch.randn(5, 9, generator=torch.Generator().manual_seed(0))))
    again = pickle.loads(pickle.dumps(result))
    assert (again, again.parameters, again.dropped) == (result, 9, 0)
    assert f"{result:.3f}" == f"{float(result):.3f}"
    assert f"{result}" == f"{float(result):.6g} (plain; pure noise of 5 samples gives 0.25)"


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="estimator must be one of plain, debiased, xi, unnorm"):
        gsnr(moments_of(torch.randn(3, 2)), "mean")
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        gsnr(moments_of(torch.randn(1, 2)))
    with pytest.raises(ValueError, match="gradients must be finite"):
        gsnr(moments_of(torch.tensor([[1.0, torch.inf], [2.0, 0.0]])))
