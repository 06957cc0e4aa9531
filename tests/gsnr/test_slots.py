"""Moments of compiled passes: against a loop over samples, and against eager passes."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from rectify.gsnr.links import Links
from rectify.gsnr.moments import GradientMoments
from rectify.results.declared import GSNR_MODES
from rectify.runtime import compiled
from tests.helpers.moments import (
    assert_agreement,
    assert_close,
    assert_says,
    batch,
    gradients,
    loop,
    per_sample,
    vit,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch's compiler about what it does itself
]

PARTNERS = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])
COPIES = torch.tensor([[0], [0], [1], [2], [1], [2]])


class Ready(NamedTuple):
    """A model, its compiled form, and moments that have seen a pass and now take compiled ones."""

    model: nn.Module
    fast: Callable[[Tensor], Tensor]
    watched: GradientMoments


@pytest.fixture(scope="module", params=GSNR_MODES)
def ready(request: pytest.FixtureRequest) -> Ready:
    """Return a model of which each graph is compiled once, in seconds, for all tests of a mode."""
    torch._dynamo.reset()
    model, (images, labels) = vit(depth=1, init_values=0.3), batch()
    watched = GradientMoments({"blocks": model.blocks}, request.param, compiled=True)
    assert not watched.is_compiled
    passed(watched, model, images, labels)  # is looked at
    return Ready(model, compiled(model, backend="aot_eager"), watched)


def gradients_of(
    model: nn.Module, forward: Callable, images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    model.zero_grad()
    per_sample(forward(images), labels).mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def passed(watched: GradientMoments, forward: Callable, images: Tensor, labels: Tensor) -> dict:
    with watched:
        per_sample(forward(images), labels).mean().backward()
    found = watched.moments()
    watched.clear()
    return found


def test_a_compiled_pass_has_the_moments_of_a_loop_over_samples(ready: Ready) -> None:
    (model, fast, watched), (images, labels) = ready, batch()
    expected = loop(model, images, labels, per_sample)
    plain = gradients_of(model, fast, images, labels)
    for _ in range(3):
        model.zero_grad()
        assert watched.is_compiled
        assert_close(passed(watched, fast, images, labels), expected, 1e-6)
        for name, parameter in model.named_parameters():
            if name in plain:
                assert torch.allclose(parameter.grad, plain[name], rtol=1e-5, atol=1e-10), name
        gradients_of(model, fast, images, labels)  # and without, which keeps its own code


def test_a_compiled_pass_has_the_products_of_linked_samples(ready: Ready) -> None:
    """Of whatever pairs, next to each other or not; and then of none again."""
    (model, fast, watched), (images, labels) = ready, batch()
    stacks = gradients(model, images, labels, per_sample)
    expected = loop(model, images, labels, per_sample)
    for origins in (PARTNERS, COPIES, PARTNERS, None):
        model.zero_grad()
        watched.links = None if origins is None else Links(origins)
        assert watched.is_compiled
        found = passed(watched, fast, images, labels)
        assert_close(found, expected, 1e-6)
        if origins is None:
            assert all(own.linked is None for own in found.values())
        else:
            assert_agreement(found, stacks, origins, 1e-6)


COUNTED = """
import torch
from torch.nn.functional import cross_entropy

from rectify.gsnr.links import Links
from rectify.gsnr.moments import GradientMoments
from rectify.runtime import compiled
from tests.helpers.moments import batch, vit

pairs = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])
others = torch.tensor([[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]])
for mode in ("observe", "replace"):
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    model, (images, labels) = vit(depth=1), batch()
    fast = compiled(model, backend="aot_eager")
    watched = GradientMoments(model.blocks, mode, compiled=True)
    for number, origins in enumerate((None, None, pairs, others, None)):
        watched.links = None if origins is None else Links(origins)
        with watched:
            forward = fast if watched.is_compiled else model
            cross_entropy(forward(images), labels).backward()
        watched.moments()
        cross_entropy(fast(images), labels).backward()
        assert counters["stats"]["unique_graphs"] == min(number + 1, 3), (mode, number, counters)
    assert not counters["graph_break"], counters
print("counted")
"""


def test_measured_passes_are_one_graph_that_is_compiled_once() -> None:
    assert_says("counted", COUNTED)


SPLIT = """
import sys

import torch
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from rectify.gsnr import GradientMoments, GradientNorms
from rectify.runtime import compiled
from tests.helpers.moments import batch, vit

torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0,
                                     world_size=1)
torch.distributed._DEFAULT_FIRST_BUCKET_BYTES = 4096
model, (images, labels) = vit(), batch()
whole = DistributedDataParallel(model, bucket_cap_mb=0.01)  # torch.compile splits there
fast = compiled(whole, backend="aot_eager")
for kind, read in (
    (GradientMoments, lambda moments: [own.variance for own in moments.moments().values()]),
    (GradientNorms, lambda norms: [own.squares for own in norms.norms().values()]),
):
    watched = kind({"blocks": model.blocks}, compiled=True)
    for number in range(2):
        model.zero_grad()
        with watched:
            forward = fast if watched.is_compiled else whole
            cross_entropy(forward(images), labels).backward()
        found = read(watched)
        eager = eager if number else found
    assert forward is fast
    for own, other in zip(found, eager, strict=True):
        assert torch.allclose(own, other, rtol=1e-6, atol=1e-14), (own, other)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
print("split")
"""


def test_a_graph_that_is_split_for_several_processes_is_measured_in_all_parts(
    tmp_path: Path,
) -> None:
    assert_says("split", SPLIT, f"{tmp_path / 'meet'}")


def test_another_batch_gives_other_moments(ready: Ready) -> None:
    (model, fast, watched), (images, labels) = ready, batch()
    first = passed(watched, fast, images, labels)
    second = passed(watched, fast, images.flip(0, -1), labels)
    assert_close(second, loop(model, images.flip(0, -1), labels, per_sample), 1e-6)
    assert all(not torch.equal(first[name].mean, second[name].mean) for name in first)


def test_samples_linked_in_sets_of_several_sizes_are_measured_eagerly() -> None:
    model, (images, labels) = vit(depth=1), batch()
    watched = GradientMoments(model.blocks, compiled=True)
    passed(watched, model, images, labels)
    assert watched.is_compiled
    watched.links = Links(torch.tensor([[0], [0], [1], [2], [3], [4]]))
    assert not watched.is_compiled


def test_modules_of_the_generic_way_are_measured_eagerly() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 3))
    watched = GradientMoments(model, compiled=True)
    passed(watched, model, torch.randn(6, 4), torch.arange(6) % 3)
    assert not watched.is_compiled


def test_without_being_asked_for_no_pass_is_compiled() -> None:
    model, (images, labels) = vit(depth=1), batch()
    watched = GradientMoments(model.blocks)
    passed(watched, model, images, labels)
    assert not watched.is_compiled


@pytest.mark.parametrize("times", [0, 2])
def test_a_compiled_pass_with_no_or_a_second_backward_pass_is_refused(
    ready: Ready, times: int
) -> None:
    (_, fast, watched), (images, labels) = ready, batch()
    with watched:
        losses = [per_sample(fast(images), labels).mean() for _ in range(max(times, 1))]
        for loss in losses[:times]:
            loss.backward()
    message = f"must run once with gradients of all samples, got {times} runs"
    with pytest.raises(ValueError, match=message):
        watched.moments()
    watched.clear()
    passed(watched, fast, images, labels)  # the next one is measured again


def test_two_backward_passes_of_one_compiled_graph_are_refused(ready: Ready) -> None:
    (_, fast, watched), (images, labels) = ready, batch()
    with watched, torch._functorch.config.patch(donated_buffer=False):
        loss = per_sample(fast(images), labels).mean()
        loss.backward(retain_graph=True)
        loss.backward()
    with pytest.raises(ValueError, match="must run once with gradients of all samples, got 2 runs"):
        watched.moments()
    watched.clear()
