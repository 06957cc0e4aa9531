"""Moments gathered in a training step, in whatever it may contain: against a loop over samples."""

import contextlib
import weakref

import pytest
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rectify.gsnr.estimators import gsnr
from rectify.gsnr.links import Links
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.moments import GradientMoments, merged
from tests.helpers.moments import (
    BOTH_MODES,
    SAMPLES,
    assert_agreement,
    assert_close,
    batch,
    gradients,
    loop,
    measured,
    per_sample,
    run_two_processes,
    vit,
)


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


@BOTH_MODES
def test_bfloat16_autocast_measures_the_gradient_that_it_trains_with(mode: str) -> None:
    model, (images, labels) = vit(torch.float32, init_values=0.3), batch(torch.float32, samples=32)
    exact = gradient_moments(model, images, labels, per_sample, ["blocks"])

    def losses() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return per_sample(model(images), labels)

    losses().mean().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    found = measured(model, losses, mode)
    assert float(gsnr(found)) == pytest.approx(float(gsnr(exact)), rel=0.05)
    for name, parameter in model.named_parameters():
        if mode == "observe":
            assert torch.equal(parameter.grad, plain[name]), name
        else:
            assert (parameter.grad - plain[name]).norm() <= 0.02 * plain[name].norm(), name
        if name in found and not name.endswith("qkv.bias"):
            assert found[name].mean.dtype == torch.float32
            assert (found[name].mean - plain[name]).norm() <= 0.02 * plain[name].norm(), name


@BOTH_MODES
def test_both_modes_give_the_moments_of_a_training_step(mode: str) -> None:
    model, (images, labels) = vit(init_values=0.3), batch()
    found = measured(model, lambda: per_sample(model(images), labels), mode)
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_replace_gives_the_training_gradient_but_for_rounding(
    dtype: torch.dtype, limit: float
) -> None:
    model, (images, labels) = vit(dtype, init_values=0.3), batch(dtype)
    cross_entropy(model(images), labels).backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    with GradientMoments(model.blocks, "replace"):
        cross_entropy(model(images), labels).backward()
    for name, parameter in model.named_parameters():
        scale = max(expected[name].abs().max().item(), 1e-6)  # of a key bias: rounding
        assert (parameter.grad - expected[name]).abs().max() <= limit * scale, name


def test_the_gradient_of_replace_is_the_mean_and_changing_it_changes_no_moment() -> None:
    model, (images, labels) = vit(), batch()
    found = measured(model, lambda: per_sample(model(images), labels), "replace")
    weight = model.blocks[0].mlp.fc1.weight
    assert torch.equal(found["blocks.0.mlp.fc1.weight"].mean, weight.grad)
    weight.grad.zero_()
    assert found["blocks.0.mlp.fc1.weight"].mean.abs().sum() > 0


@pytest.mark.parametrize(("mode", "difference"), [("observe", 0.0), ("replace", 2e-4)])
def test_ten_training_steps_end_at_the_same_weights(mode: str, difference: float) -> None:
    """Bit by bit with observe; with replace AdamW's first steps enlarge rounding up to lr."""
    ends = []
    for watch in (False, True):
        model = vit(torch.float32, drop_path_rate=0.2).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        watched = GradientMoments(model.blocks, mode)
        for step in range(10):
            torch.manual_seed(step)  # stochastic depth
            images, labels = batch(torch.float32, samples=8)
            with watched if watch else contextlib.nullcontext():
                cross_entropy(model(images.roll(step, -1)), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        ends.append(torch.cat([values.detach().flatten() for values in without_key_bias(model)]))
    assert (ends[0] - ends[1]).abs().max() <= difference


def without_key_bias(model: nn.Module) -> list[Tensor]:
    """All parameters but the key biases: their gradient is rounding, which AdamW makes lr."""
    values = []
    for name, parameter in model.named_parameters():
        values += parameter.chunk(3)[::2] if name.endswith("qkv.bias") else [parameter]
    return values


@BOTH_MODES
def test_mixup_smoothing_and_stochastic_depth_are_measured_exactly(mode: str) -> None:
    model = vit(drop_path_rate=0.4).train()
    images, labels = batch(samples=8)
    images, targets = Mixup(0.8, 1.0, label_smoothing=0.1, num_classes=5)(images, labels)

    def losses() -> Tensor:
        torch.manual_seed(3)  # the same blocks dropped for the same samples
        return torch.sum(-targets * model(images).log_softmax(-1), -1)

    found = measured(model, losses, mode)
    expected = {}
    for i in range(8):  # one graph, so that every sample keeps its draw
        model.zero_grad()
        losses()[i].backward()
        for name, parameter in model.named_parameters():
            if name.startswith("blocks"):
                expected.setdefault(name, []).append(parameter.grad.clone())
    stacks = {name: torch.stack(of_samples) for name, of_samples in expected.items()}
    assert_close(found, {n: (g.mean(0), g.var(0, correction=0)) for n, g in stacks.items()}, 1e-10)


PARTNERS = torch.tensor([[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]])
OVERLAPPING = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 3], [4, 5], [6, 6]])


@BOTH_MODES
@pytest.mark.parametrize("origins", [PARTNERS, PARTNERS // 2, OVERLAPPING])
def test_the_agreement_is_that_of_samples_that_share_nothing(mode: str, origins: Tensor) -> None:
    model, (images, labels) = vit(init_values=0.3, class_token=True, reg_tokens=2), batch()
    stacks = gradients(model, images, labels, per_sample, "")
    watched = GradientMoments(model, mode, links=Links(origins), scale=0.5)
    with watched:
        (per_sample(model(images), labels).mean() / 2).backward()
    assert_agreement(watched.moments(), stacks, origins, 1e-10)
    found = gradient_moments(model, images, labels, per_sample, model, origins)
    assert_agreement(found, stacks, origins, 1e-10)
    found = gradient_moments(model, images, labels, per_sample, model)
    assert_agreement(found, stacks, torch.arange(SAMPLES)[:, None], 1e-10)


@pytest.mark.parametrize("second", [PARTNERS + 6, None])
def test_parts_of_a_batch_agree_as_one_batch(second: Tensor | None) -> None:
    """Samples are linked within a part; one of the parts may have no links."""
    model, (images, labels) = vit(), batch(samples=12)
    parts = []
    for items, own in ((slice(6), PARTNERS), (slice(6, 12), second)):
        parts.append(
            gradient_moments(model, images[items], labels[items], per_sample, ["blocks"], own)
        )
    alone = torch.arange(6, 12)[:, None].expand(6, 2)
    origins = torch.cat([PARTNERS, alone if second is None else second])
    stacks = gradients(model, images, labels, per_sample)
    assert_agreement(merged(*parts), stacks, origins, 1e-10)
    assert_agreement(merged(*reversed(parts)), stacks, origins, 1e-10)


@BOTH_MODES
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_blocks_give_the_same_moments(mode: str, reentrant: bool) -> None:
    model, (images, labels) = vit(), batch()
    images.requires_grad_()  # reentrant checkpoints need an input with a gradient

    def losses() -> Tensor:
        tokens = model._pos_embed(model.patch_embed(images))
        for block in model.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=reentrant)
        return per_sample(model.forward_head(model.norm(tokens)), labels)

    found = measured(model, losses, mode)
    assert_close(found, loop(model, images.detach(), labels, per_sample), 1e-10)


@BOTH_MODES
def test_accumulated_batches_are_one_batch(mode: str) -> None:
    model, (images, labels) = vit(), batch(samples=9)
    expected = loop(model, images, labels, per_sample)
    sizes, parts = (2, 4, 3), []
    for images_, labels_ in zip(images.split(sizes), labels.split(sizes), strict=True):
        watched = GradientMoments({"blocks": model.blocks}, mode, scale=len(images_) / 9)
        with watched:
            (per_sample(model(images_), labels_).mean() * len(images_) / 9).backward()
        parts.append(watched.moments())
    whole = merged(merged(parts[0], parts[1]), parts[2])
    assert_close(whole, expected, 1e-10)
    assert {moments.samples for moments in whole.values()} == {9}
    assert_close(merged(parts[2], merged(parts[1], parts[0])), expected, 1e-10)


@BOTH_MODES
@pytest.mark.slow
def test_an_eager_model_with_a_compiled_twin_is_measured(mode: str) -> None:
    model, (images, labels) = vit(), batch()
    compiled = torch.compile(model, backend="aot_eager")
    cross_entropy(compiled(images), labels).backward()
    model.zero_grad()
    found = measured(model, lambda: per_sample(model(images), labels), mode)
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)
    assert not torch.equal(compiled(images), compiled(images.flip(-1)))  # it still runs


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of observe, replace, got 'both'"):
        GradientMoments(vit().blocks, "both")


RANKS = """
import sys
import torch
from torch.distributed import TCPStore, init_process_group, destroy_process_group
from rectify.gsnr.links import Links
from rectify.gsnr.moments import GradientMoments, across_ranks
from tests.helpers.moments import (
    assert_agreement, assert_close, batch, gradients, loop, per_sample, vit
)

rank, port = int(sys.argv[1]), int(sys.argv[2])
store = TCPStore("127.0.0.1", port, 2, rank == 0)
init_process_group("gloo", store=store, rank=rank, world_size=2)
model, (images, labels) = vit(), batch(samples=8)
for mode in ("observe", "replace"):
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    links = Links(torch.tensor([[0, 1], [2, 3], [3, 2], [1, 0]])) if rank else None
    watched = GradientMoments({"blocks": model.blocks}, mode, links=links)
    items = slice(4 * rank, 4 * rank + 4)
    with watched:
        per_sample(parallel(images[items]), labels[items]).mean().backward()
    found, expected = across_ranks(watched.moments()), loop(model, images, labels, per_sample)
    assert_close(found, expected, 1e-10)
    stacks = gradients(model, images, labels, per_sample)
    assert_agreement(found, stacks, torch.tensor([0, 1, 2, 3, 4, 5, 5, 4])[:, None], 1e-10)
    assert {moments.samples for moments in found.values()} == {8}
    gradient = model.blocks[0].mlp.fc1.weight.grad
    assert (gradient - expected["blocks.0.mlp.fc1.weight"][0]).norm() < 1e-12
    model.zero_grad()
destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_two_processes_have_the_moments_of_the_whole_batch() -> None:
    run_two_processes(RANKS)


def test_moments_that_were_let_go_are_gone() -> None:
    model, (images, labels) = vit(), batch()
    watched = GradientMoments({"blocks": model.blocks})
    with watched:
        cross_entropy(model(images), labels).backward()
    kept = weakref.ref(watched.moments()["blocks.0.mlp.fc1.weight"].mean)
    assert kept() is not None
    watched.clear()
    assert kept() is None
    with pytest.raises(ValueError, match=r"must run once .* got 0 runs"):
        watched.moments()


def test_a_context_that_is_entered_again_measures_the_next_pass_only() -> None:
    model, (images, labels) = vit(), batch()
    expected = loop(model, images.flip(-1), labels, per_sample)
    watched = GradientMoments({"blocks": model.blocks})
    with watched:
        late = cross_entropy(model(images), labels)
    with watched:
        late.backward()  # of the pass before: its taps belong to that
        cross_entropy(model(images.flip(-1)), labels).backward()
    assert_close(watched.moments(), expected, 1e-10)
