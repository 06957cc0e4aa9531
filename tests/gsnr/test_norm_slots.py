"""Norms of compiled passes: against a loop over samples, and against eager passes."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr import GradientNorms, NoiseObserver
from rectify.gsnr.links import Links
from rectify.runtime import compiled
from tests.helpers.moments import SAMPLES, assert_says, batch, gradients, per_sample, vit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch's compiler about what it does itself
]

MEASURED = 4
PARTNERS = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])
OTHERS = torch.tensor([[0], [0], [1], [2], [1], [2]])


class Ready(NamedTuple):
    """A model, its compiled form, and norms that have seen a pass and now take compiled ones."""

    model: nn.Module
    fast: Callable[[Tensor], Tensor]
    watched: GradientNorms


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    return {f"blocks.{number}": block for number, block in enumerate(model.blocks)}


@pytest.fixture(scope="module")
def ready() -> Ready:
    """Return a model of which each graph is compiled once, in seconds, for all tests."""
    torch._dynamo.reset()
    model = vit(depth=1, init_values=0.3)
    watched = GradientNorms(blocks_of(model), samples=MEASURED, compiled=True)
    assert not watched.is_compiled
    passed(watched, model, None)  # is looked at
    watched.norms()
    return Ready(model, compiled(model, backend="aot_eager"), watched)


def passed(watched: GradientNorms, forward: Callable, origins: Tensor | None) -> None:
    images, labels = batch()
    with watched.of_pass(0.5, origins):
        (0.5 * cross_entropy(forward(images), labels)).backward()


@pytest.mark.parametrize("origins", [None, PARTNERS, OTHERS])
def test_a_compiled_pass_has_the_norms_of_a_loop_over_samples(
    ready: Ready, origins: Tensor | None
) -> None:
    """Those of linked samples are of the pairs that stand first, in whatever order they are."""
    (model, fast, watched), (images, labels) = ready, batch()
    stacks = gradients(model, images, labels, per_sample, part="blocks.0")
    flat = torch.cat([stack.flatten(1) for stack in stacks.values()], 1)
    model.zero_grad()
    passed(eager := GradientNorms(blocks_of(model), samples=MEASURED), model, origins)
    trained = {name: own.grad.clone() for name, own in model.named_parameters()}
    for _ in range(2):
        model.zero_grad()
        watched.of_pass(0.5, origins)
        assert watched.is_compiled
        passed(watched, fast, origins)
        (own,), (other,) = watched.norms().values(), eager.norms().values()
        assert torch.allclose(own.squares, flat.square().sum(1)[:MEASURED], rtol=1e-6, atol=0)
        assert own.mean == pytest.approx(float(flat.mean(0).square().sum()), rel=1e-6)
        assert torch.allclose(own.squares, other.squares, rtol=1e-9, atol=0)
        for name in ("mean", "samples", "linked", "pairs", "error", "agreement"):
            assert getattr(own, name) == pytest.approx(getattr(other, name), rel=1e-9), name
        for name, parameter in model.named_parameters():
            assert torch.allclose(parameter.grad, trained[name], rtol=1e-9, atol=1e-14), name
    if origins is not None:
        rows = next(rows for _, rows in Links(origins).rows())[: -(-MEASURED * 3 // SAMPLES)]
        linked = 3 * flat[rows].sum(1).square().sum(1).mean()
        assert own.linked == pytest.approx(float(linked), rel=1e-6)


COUNTED = """
import torch
from torch.nn.functional import cross_entropy

from rectify.gsnr import GradientNorms
from rectify.runtime import compiled
from tests.helpers.moments import batch, vit

pairs = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])
others = torch.tensor([[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5]])
counters = torch._dynamo.utils.counters
model, (images, labels) = vit(depth=1), batch()
fast = compiled(model, backend="aot_eager")
watched = GradientNorms({"blocks": model.blocks}, samples=4, compiled=True)
for number, origins in enumerate((None, pairs, others, pairs)):
    with watched.of_pass(1.0, origins):
        cross_entropy((fast if watched.is_compiled else model)(images), labels).backward()
    watched.norms()
    cross_entropy(fast(images), labels).backward()
    assert counters["stats"]["unique_graphs"] == min(number + 1, 2), (number, counters)
assert not counters["graph_break"], counters
print("counted")
"""


def test_measured_passes_of_pairs_are_one_graph_that_is_compiled_once() -> None:
    """Whatever the pairs are."""
    assert_says("counted", COUNTED)


@pytest.mark.parametrize("times", [0, 2])
def test_a_compiled_pass_with_no_or_a_second_backward_pass_is_refused(
    ready: Ready, times: int
) -> None:
    (_, fast, watched), (images, labels) = ready, batch()
    with watched.of_pass():
        for _ in range(max(times, 1)):
            loss = cross_entropy(fast(images), labels)
            if times:
                loss.backward()
    message = f"must run once with gradients of all samples, got {times} runs"
    with pytest.raises(ValueError, match=message):
        watched.norms()
    passed(watched, fast, None)  # the next one is measured again
    assert watched.norms()["blocks.0"].samples == SAMPLES


def test_a_compiled_step_with_a_second_backward_pass_is_refused_at_once(ready: Ready) -> None:
    (model, fast, _), (images, labels) = ready, batch()
    observer = NoiseObserver(blocks_of(model), MEASURED, compiled=True)

    def step(forward: Callable, times: int) -> None:
        with observer.watch():
            for _ in range(times):
                cross_entropy(forward(images), labels).backward()

    step(model, 1)
    with pytest.raises(ValueError, match=r"must run once .* got 2 runs"):
        step(fast, 2)


def test_a_batch_of_fewer_samples_than_are_measured_is_compiled_too(ready: Ready) -> None:
    (model, fast, watched), (images, labels) = ready, batch()
    samples = MEASURED - 1
    part = images[:samples], labels[:samples]
    stacks = gradients(model, *part, per_sample, part="blocks.0")
    flat = torch.cat([stack.flatten(1) for stack in stacks.values()], 1)
    with watched.of_pass():
        assert watched.is_compiled
        cross_entropy(fast(part[0]), part[1]).backward()
    norms = watched.norms()["blocks.0"]
    assert norms.samples == samples
    assert torch.allclose(norms.squares, flat.square().sum(1)[:MEASURED], rtol=1e-6, atol=0)


def test_where_all_are_measured_a_larger_batch_than_the_first_is_refused(ready: Ready) -> None:
    (model, fast, _), (images, labels) = ready, batch()
    watched = GradientNorms(blocks_of(model), compiled=True)
    with watched:
        cross_entropy(model(images[:4]), labels[:4]).backward()
    watched.norms()
    with watched:
        cross_entropy(fast(images), labels).backward()
    message = (
        r"blocks\.0: a compiled pass must have at most the 4 samples of the first one, got 6\."
    )
    with pytest.raises(ValueError, match=message):
        watched.norms()


def test_linked_samples_of_several_sizes_are_measured_eagerly(ready: Ready) -> None:
    watched = ready.watched
    for origins in ([0, 0, 1, 1, 1, 2], [0, 1, 2, 3, 4, 4]):
        assert not watched.of_pass(1.0, torch.tensor(origins)[:, None]).is_compiled
    chain = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0]])
    assert not watched.of_pass(1.0, chain).is_compiled
    assert watched.of_pass(1.0, PARTNERS).is_compiled


def test_modules_of_the_generic_way_are_measured_eagerly() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 3))
    watched = GradientNorms(model, compiled=True)
    with watched:
        cross_entropy(model(torch.randn(6, 4)), torch.arange(6) % 3).backward()
    watched.norms()
    assert not watched.is_compiled


def test_without_being_asked_for_no_pass_is_compiled(ready: Ready) -> None:
    watched = GradientNorms(blocks_of(ready.model))
    passed(watched, ready.model, None)
    watched.norms()
    assert not watched.is_compiled
