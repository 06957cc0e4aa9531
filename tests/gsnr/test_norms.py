"""Norms of the samples' gradients, against a loop over samples, moments, and McCandlish et al."""

import copy
import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from rectify.gsnr import GradientMoments, GradientNorms, Norms, gsnr
from rectify.gsnr.kernels import squared_norms
from tests.helpers.moments import (
    OTHER_OPTIONS,
    SAMPLES,
    Means,
    Pieces,
    batch,
    gradients,
    numbers,
    per_sample,
    vit,
)


def by_block(model: nn.Module) -> Mapping[str, nn.Module]:
    return {f"blocks.{number}": block for number, block in enumerate(model.blocks)}


def norms_of(
    modules: nn.Module | Mapping[str, nn.Module],
    loss: Callable[[], Tensor],
    scale: float = 1.0,
    **options: object,
) -> dict[str, Norms]:
    watched = GradientNorms(modules, scale=scale, **options)
    with watched:
        (scale * loss()).backward()
    return watched.norms()


def products_of_linked(stacks: Mapping[str, Tensor], origins: Tensor) -> tuple[float, int]:
    """The slow oracle: each pair of samples with an origin in common, one after the other."""
    flat = torch.cat([stack.flatten(1) for stack in stacks.values()], 1)
    linked = [
        float(flat[i] @ flat[j])
        for i, j in itertools.product(range(SAMPLES), repeat=2)
        if set(origins[i].tolist()) & set(origins[j].tolist())
    ]
    return sum(linked), len(linked)


def assert_norms(norms: Norms, stacks: Mapping[str, Tensor], tolerance: float = 1e-9) -> None:
    """Compare with each sample's gradients, as the slow oracle has them."""
    flat = torch.cat([stack.flatten(1) for stack in stacks.values()], 1)
    expected = torch.stack([gradient @ gradient for gradient in flat])
    assert torch.allclose(norms.squares, expected, rtol=tolerance, atol=0)
    assert norms.mean == pytest.approx(float(flat.mean(0).square().sum()), rel=tolerance)


@pytest.mark.parametrize("embed_dim", [16, 64])
def test_norms_of_a_vit_are_those_of_a_loop_over_samples(embed_dim: int) -> None:
    model, (images, labels) = vit(init_values=0.3, embed_dim=embed_dim), batch()
    stacks = gradients(model, images, labels, per_sample, part="")
    norms = norms_of(model, lambda: cross_entropy(model(images), labels))
    assert_norms(norms[""], stacks)


def test_blocks_are_apart_and_what_is_frozen_is_left_out() -> None:
    model, (images, labels) = vit(), batch()
    model.blocks[0].mlp.fc1.weight.requires_grad_(False)
    model.blocks[1].norm1.requires_grad_(False)
    norms = norms_of(by_block(model), lambda: cross_entropy(model(images), labels))
    assert list(norms) == ["blocks.0", "blocks.1"]
    for name, own in norms.items():
        assert_norms(own, gradients(model, images, labels, per_sample, part=name))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_debiased_and_parameters_are_those_of_the_moments(scale: float) -> None:
    model, (images, labels) = vit(), batch()
    watched = GradientMoments(by_block(model), scale=scale)
    with watched:
        (scale * cross_entropy(model(images), labels)).backward()
    moments = watched.moments()
    counted = GradientNorms(by_block(model), scale=scale)
    with counted:  # on top of the gradients of the first pass
        (scale * cross_entropy(model(images), labels)).backward()
    assert counted.names == list(moments)
    for name, norms in counted.norms().items():
        of_block = {key: own for key, own in moments.items() if key.startswith(f"{name}.")}
        assert norms.debiased == pytest.approx(gsnr(of_block, "debiased").value, rel=1e-9)
        assert norms.debiased == pytest.approx(1 / norms.noise_scale, rel=1e-12)


ORIGINS = {
    "pairs": torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]]),
    "pairs and single ones": torch.tensor([[0], [1], [0], [2], [3], [1]]),
    "chains": torch.tensor([[0, 1], [1, 2], [2, 3], [3, 3], [4, 5], [5, 0]]),
}
"""What each sample is made from: partners of Mixup, copies, and sets that overlap."""


@pytest.mark.parametrize("kind", ORIGINS)
def test_linked_samples_are_told_apart_from_independent_ones(kind: str) -> None:
    model, (images, labels) = vit(), batch()
    watched = GradientNorms(by_block(model)).of_pass(0.5, ORIGINS[kind])
    with watched:
        (0.5 * cross_entropy(model(images), labels)).backward()
    for name, norms in watched.norms().items():
        stacks = gradients(model, images, labels, per_sample, part=name)
        assert_norms(norms, stacks)
        linked, pairs = products_of_linked(stacks, ORIGINS[kind])
        assert (norms.linked, norms.pairs) == (pytest.approx(linked, rel=1e-9), pairs)
        agreement = (SAMPLES**2 * norms.mean - linked) / (SAMPLES**2 - pairs)
        assert norms.agreement == pytest.approx(agreement, rel=1e-6)
        assert norms.debiased == pytest.approx(agreement / (norms.square - agreement), rel=1e-6)


def test_the_first_samples_stand_for_all_without_bias_and_with_their_standard_error() -> None:
    """Of every order of the samples, as far as it decides which ones and which pairs are first."""
    model, inputs, labels = Means(nn.Linear(5, 7)), numbers(3, 5), torch.arange(SAMPLES)
    partners = torch.tensor([0, 1, 2, 2, 1, 0])
    stacks = gradients(model, inputs, labels, per_sample, part="")
    linked, _ = products_of_linked(stacks, partners[:, None])
    exact = norms_of(model, lambda: cross_entropy(model(inputs), labels))[""]
    some = GradientNorms(model, samples=2).of_pass(1.0, partners[:, None])
    drawn = []
    for pairs in itertools.permutations(range(3)):  # which pair is first, second and last
        for flips in itertools.product((False, True), repeat=3):
            first = [5 - pair if flip else pair for pair, flip in zip(pairs, flips, strict=True)]
            order = torch.tensor([*first, *(5 - sample for sample in reversed(first))])
            with some:
                cross_entropy(model(inputs[order]), labels[order]).backward()
            drawn.append(some.norms()[""])
            assert torch.allclose(drawn[-1].squares, exact.squares[order[:2]], rtol=1e-9)
    mean = pytest.approx(sum(norms.square for norms in drawn) / len(drawn), rel=1e-9)
    assert exact.square == mean
    assert exact.error == 0
    assert linked == pytest.approx(sum(norms.linked for norms in drawn) / len(drawn), rel=1e-9)
    assert {norms.samples for norms in drawn} == {SAMPLES}
    assert drawn[0].mean == pytest.approx(exact.mean, rel=1e-9)
    parts = [Norms(exact.squares[list(two)], exact.mean, samples=SAMPLES)
             for two in itertools.combinations(range(SAMPLES), 2)]  # fmt: skip
    spread = sum((part.square - exact.square) ** 2 for part in parts) / len(parts)
    assert spread == pytest.approx(sum(part.error**2 for part in parts) / len(parts), rel=1e-9)
    agreement = sum(part.agreement for part in parts) / len(parts)
    assert agreement == pytest.approx(exact.agreement, rel=1e-9)


def test_the_training_gradients_stay_as_they_were_bit_by_bit() -> None:
    model, (images, labels) = vit(torch.float32), batch(torch.float32)
    plain = copy.deepcopy(model)
    cross_entropy(plain(images), labels).backward()
    watched = GradientNorms(model)
    for _ in range(2):  # the first pass is looked at
        model.zero_grad()
        with watched:
            cross_entropy(model(images), labels).backward()
        for own, expected in zip(model.parameters(), plain.parameters(), strict=True):
            assert torch.equal(own.grad, expected.grad)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5), -1),
    "linear of many tokens": (lambda: nn.Linear(5, 7), (40, 5), -1),
    "linear of one token": (lambda: nn.Linear(5, 7), (5,), -1),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), (3, 5), -1),
    "GPT-2's linear": (lambda: Conv1D(7, 5), (3, 5), -1),
    "rms norm": (lambda: nn.RMSNorm(5), (3, 5), -1),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3, 3), 1),
    "convolution": (lambda: nn.Conv2d(4, 8, 3), (4, 6, 6), 1),
    **{
        f"convolution {number}": (lambda own=own: nn.Conv2d(4, 8, 3, **own), (4, 6, 6), 1)
        for number, own in enumerate(OTHER_OPTIONS)
    },
    "another layer, the generic way": (lambda: Squared(), (3, 5), -1),
}


class Squared(nn.Module):
    """A layer of no known type."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(5))

    def forward(self, values: Tensor) -> Tensor:
        return values.square() * self.weight.exp()


@pytest.mark.parametrize("name", LAYERS)
def test_norms_of_a_layer_are_those_of_a_loop_over_samples(name: str) -> None:
    make, sizes, features = LAYERS[name]
    model, inputs = Means(make(), features), numbers(*sizes)
    labels = torch.arange(SAMPLES) % model(inputs).shape[1]
    stacks = gradients(model, inputs, labels, per_sample, part="")
    watched = GradientNorms(model).of_pass(1.0, ORIGINS["pairs and single ones"])
    with watched:
        cross_entropy(model(inputs), labels).backward()
    norms = watched.norms()[""]
    assert_norms(norms, stacks)
    linked, _ = products_of_linked(stacks, ORIGINS["pairs and single ones"])
    assert norms.linked == pytest.approx(linked, rel=1e-9)


def test_norms_of_an_embedding_are_those_of_a_loop_over_samples() -> None:
    model = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 5))
    model.double()
    draws = torch.Generator().manual_seed(0)
    words, labels = torch.randint(9, (SAMPLES, 3), generator=draws), torch.arange(SAMPLES) % 5
    stacks = gradients(model, words, labels, per_sample, part="")
    watched = GradientNorms(model).of_pass(1.0, ORIGINS["chains"])
    with watched:
        cross_entropy(model(words), labels).backward()
    norms = watched.norms()[""]
    assert_norms(norms, stacks)
    assert norms.linked == pytest.approx(products_of_linked(stacks, ORIGINS["chains"])[0], rel=1e-9)


@pytest.mark.parametrize("sizes", [(65, 7, 5), (3, 7, 5)])
def test_both_ways_to_the_norms_of_a_product_give_the_same(sizes: tuple[int, int, int]) -> None:
    tokens, dim_in, dim_out = sizes
    inputs, delta = numbers(tokens, dim_in), numbers(tokens, dim_out) + 1
    expected = [(own.T @ seen).square().sum() for own, seen in zip(delta, inputs, strict=True)]
    assert torch.allclose(squared_norms(inputs, delta), torch.stack(expected), rtol=1e-12)
    ones = torch.cat([inputs, torch.ones_like(inputs[..., :1])], 2)
    expected = [(own.T @ seen).square().sum() for own, seen in zip(delta, ones, strict=True)]
    of_both = squared_norms(inputs, delta, has_bias=True)
    assert torch.allclose(of_both, torch.stack(expected), rtol=1e-12)


@pytest.mark.parametrize("small", [1, 2, 3])
def test_the_noise_scale_is_that_of_mccandlish_averaged_over_all_small_batches(small: int) -> None:
    """Eqs. A.2: with batches of ``small`` and of all samples; all small ones have the mean."""
    stack = numbers(4) + 1
    norms = Norms(stack.square().sum(1), float(stack.mean(0).square().sum()))
    chosen = itertools.combinations(range(SAMPLES), small)
    of_small = torch.stack([stack[list(rows)].mean(0).square().sum() for rows in chosen]).mean()
    of_big = stack.mean(0).square().sum()
    signal = (SAMPLES * of_big - small * of_small) / (SAMPLES - small)
    noise = (of_small - of_big) / (1 / small - 1 / SAMPLES)
    assert norms.agreement == pytest.approx(float(signal), rel=1e-12)
    assert norms.variance == pytest.approx(float(noise), rel=1e-12)
    assert norms.noise_scale == pytest.approx(float(noise / signal), rel=1e-12)


def test_coherence_is_1_of_orthogonal_gradients_and_the_number_of_equal_ones() -> None:
    orthogonal, equal = torch.eye(4), torch.ones(4, 4)
    values = [
        Norms(own.square().sum(1), float(own.mean(0).square().sum())).coherence
        for own in (orthogonal, equal)
    ]
    assert values == [1, 4]


def test_the_cosine_is_that_to_the_mean_of_gradients_of_one_size() -> None:
    stack = nn.functional.normalize(numbers(4) + 1)
    norms = Norms(stack.square().sum(1), float(stack.mean(0).square().sum()))
    cosines = nn.functional.cosine_similarity(stack, stack.mean(0, keepdim=True))
    assert norms.cosine == pytest.approx(float(cosines.mean()), rel=1e-12)
    assert norms.cosine == pytest.approx((norms.coherence / SAMPLES) ** 0.5, rel=1e-12)


def test_what_cannot_be_measured_is_refused_or_left_out() -> None:
    norm = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 5)).double()
    with pytest.raises(ValueError, match="must treat each sample separately, got BatchNorm1d"):
        norms_of(norm, lambda: norm(numbers(5)).mean())
    twice = Pieces(lambda first, second, values: second(first(first(values))))
    with pytest.raises(ValueError, match="first must run once"):
        norms_of(twice, lambda: twice(numbers(5)).square().mean())
    norms = norms_of(twice, lambda: twice(numbers(5)).square().mean(), unsupported="skip")
    stacks = gradients(
        twice, numbers(5), numbers(5), lambda outputs, _: outputs.square().mean(1), part="second"
    )
    assert_norms(norms[""], stacks)


def test_one_sample_and_infinite_gradients_are_refused() -> None:
    model = nn.Linear(5, 5).double()
    with pytest.raises(ValueError, match="the module: at least 2 samples are needed, got 1"):
        norms_of(model, lambda: model(numbers(5)[:1]).square().mean())
    with pytest.raises(ValueError, match="at least 2 samples are needed, got 1"):
        norms_of(model, lambda: model(numbers(5)).square().mean(), samples=1)
    linked = GradientNorms(model).of_pass(1.0, torch.zeros(SAMPLES, 1).long())
    with linked:
        model(numbers(5)).square().mean().backward()
    with pytest.raises(ValueError, match="must share nothing with each other, got all linked"):
        linked.norms()
    with pytest.raises(ValueError, match="gradients must be finite"):
        norms_of(model, lambda: torch.inf * model(numbers(5)).square().mean())
