"""Rivals of the GSNR benchmark: all give the moments of the loop, and the plain gradient."""

import pytest
import timm
import torch
from torch.nn.functional import cross_entropy

from benchmarks.rivals import METHODS, Moments, loop, plain

WITH_PACKAGES = {"opacus": "opacus", "backpack-squares": "backpack", "backpack-batch": "backpack"}
SAMPLES = 6


def model_and_batch() -> tuple:
    torch.manual_seed(0)
    settings = {"embed_dim": 16, "num_heads": 2, "depth": 2, "num_classes": 5}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, **settings
    ).double()
    return model.train(), torch.randn(SAMPLES, 1, 8, 8).double(), torch.randint(5, (SAMPLES,))


def measured(prepare) -> tuple[Moments, dict[str, torch.Tensor]]:
    model, images, labels = model_and_batch()
    moments = prepare(model, model.blocks)(images, labels)
    return moments, {name: one.grad.clone() for name, one in model.named_parameters()}


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return mean and variance over a stack of the gradients of one sample each."""
    model, images, labels = model_and_batch()
    stacks = {name: [] for name, _ in model.blocks.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        model.zero_grad()
        cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.blocks.named_parameters():
            stacks[name].append(parameter.grad.clone())
    return {
        name: (torch.stack(stack).mean(0), torch.stack(stack).var(0, correction=0))
        for name, stack in stacks.items()
    }


# Attention has no rule for vmap in torch 2.13; the fallback is right, and faster than without it.
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_the_moments_of_single_samples_and_the_plain_gradient(method, expected):
    if method in WITH_PACKAGES:  # `make bench-test` has them
        pytest.importorskip(WITH_PACKAGES[method], reason="only in the benchmarks' environment")
    moments, gradients = measured(METHODS[method])
    known = {name for name in expected if "norm" not in name} if "backpack" in method else expected
    assert moments.keys() == set(known)
    for name, found in moments.items():
        for own, other in zip(found, expected[name], strict=True):
            if name.endswith("qkv.bias"):  # the key's part has a gradient of 0
                own, other = (torch.cat(values.chunk(3)[::2]) for values in (own, other))
            assert (own - other).norm() <= 1e-9 * other.norm(), name
    _, wanted = measured(plain)
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-9 * wanted[name].norm() + 1e-15, name


def test_two_calls_give_the_same():
    model, images, labels = model_and_batch()
    backward = loop(model, model.blocks)
    first, second = backward(images, labels), backward(images, labels)
    assert all(torch.equal(first[name][1], second[name][1]) for name in first)
