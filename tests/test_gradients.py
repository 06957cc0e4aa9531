"""Moments of per-sample gradients: against a loop over samples, in whatever a step may contain."""

import contextlib
import itertools
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch
from timm.data import Mixup
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from rectify import rectified
from rectify.gradients import MODES, GradientMoments, Moments, merged
from rectify.gsnr import gradient_moments, gsnr
from rectify.rectified import VARIANTS
from rectify.runtime import generator
from rectify.training import total_loss
from tests.moments import SAMPLES, assert_close, batch, loop, per_sample, vit

BOTH_MODES = pytest.mark.parametrize("mode", MODES)


def measured(
    model: nn.Module, losses: Callable[[], Tensor], mode: str = "observe", **changes: object
) -> dict[str, Moments]:
    """Take one watched step on the mean of ``losses()``."""
    watched = GradientMoments(model, mode, only=["blocks"], **changes)
    with watched:
        losses().mean().backward()
    return watched.moments()


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
        monkeypatch.setattr("rectify.kernels.CPU_SCRATCH_BYTES", limit)
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


@BOTH_MODES
def test_bfloat16_autocast_measures_the_gradient_that_it_trains_with(mode: str) -> None:
    model, (images, labels) = vit(torch.float32, init_values=0.3), batch(torch.float32, samples=32)
    exact = gsnr(gradient_moments(model, images, labels, per_sample, ["blocks"]))

    def losses() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return per_sample(model(images), labels)

    losses().mean().backward()
    plain = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    found = measured(model, losses, mode)
    assert gsnr(found) == pytest.approx(exact, rel=0.05)
    for name, parameter in model.named_parameters():
        if mode == "observe":
            assert torch.equal(parameter.grad, plain[name]), name
        else:
            assert (parameter.grad - plain[name]).norm() <= 0.02 * plain[name].norm(), name
        if name in found and not name.endswith("qkv.bias"):
            assert found[name].mean.dtype == torch.float32
            assert (found[name].mean - plain[name]).norm() <= 0.02 * plain[name].norm(), name


@BOTH_MODES
def test_a_watched_step_under_autocast_keeps_no_second_copy_of_an_input(mode: str) -> None:
    """Count the bytes that autograd saves: those of a plain step, each tensor once."""

    def saved(context: contextlib.AbstractContextManager) -> int:
        kept = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter):  # which is there anyway
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
                alive.append(tensor)
            return tensor

        alive: list[Tensor] = []
        with context, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(model(images), labels)
            loss.backward()
        return sum(kept.values())

    model, (images, labels) = vit(torch.float32), batch(torch.float32, samples=32)
    plain = saved(contextlib.nullcontext())
    assert saved(GradientMoments(model.blocks, mode)) <= plain


def test_no_hook_is_left_behind() -> None:
    model, (images, labels) = vit(), batch()

    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.modules())

    watched = GradientMoments(model.blocks)
    with watched:
        assert hooks() == 12
        assert "forward" not in vars(model.blocks[0].attn.qkv)
        loss = cross_entropy(model(images), labels)
    assert hooks() == 0
    loss.backward()  # after the context: nothing is gathered
    with pytest.raises(ValueError, match="must run once"):
        watched.moments()
    with pytest.raises(AssertionError, match="Input height"), watched:
        model(images[..., :4, :])
    assert hooks() == 0
    with GradientMoments(model.blocks, "replace"):
        assert "forward" in vars(model.blocks[0].attn.qkv)
        late = cross_entropy(model(images), labels)
    assert "forward" not in vars(model.blocks[0].attn.qkv)
    before = model.blocks[0].attn.qkv.weight.grad.clone()
    late.backward()  # still the same gradient
    assert torch.allclose(model.blocks[0].attn.qkv.weight.grad, 2 * before)


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


class Pieces(nn.Module):
    """Two linear layers, called the way that ``run(first, second, values)`` says."""

    def __init__(self, run: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
        self.run = run

    def forward(self, values: Tensor) -> Tensor:
        return self.run(self.first, self.second, values)


def five_numbers(*tokens: int) -> Tensor:
    draws = torch.Generator().manual_seed(2)
    return torch.randn(SAMPLES, *tokens, 5, dtype=torch.float64, generator=draws)


@BOTH_MODES
@pytest.mark.parametrize(
    "run",
    [
        lambda first, second, x: second(first(x).relu_()),
        lambda first, second, x: second(first(x).add_(x)),
        lambda first, second, x: second(input=first(input=x).tanh()),
    ],
    ids=["in place", "in place with a skip", "by keyword"],
)
def test_layers_are_measured_however_they_are_called(mode: str, run: Callable) -> None:
    model, inputs, labels = Pieces(run), five_numbers(), batch()[1]
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(inputs), labels).mean().backward()
    assert_close(watched.moments(), loop(model, inputs, labels, per_sample, part=""), 1e-10)


@BOTH_MODES
def test_a_hook_that_changes_the_output_comes_after_the_tap(mode: str) -> None:
    model, labels = Pieces(lambda first, second, x: second(first(x))), batch()[1]
    model.first.register_forward_hook(lambda module, args, output: 3 * output)
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(five_numbers()), labels).mean().backward()
    expected = loop(model, five_numbers(), labels, per_sample, part="")
    assert_close(watched.moments(), expected, 1e-10)


@BOTH_MODES
def test_a_forward_that_was_put_over_a_layer_is_refused_and_left(mode: str) -> None:
    model = Pieces(lambda first, second, x: second(first(x)))
    plain = model.first.forward
    model.first.forward = lambda values: 2 * plain(values)
    with pytest.raises(ValueError, match="first must run the forward of its class"):
        GradientMoments(model, mode)
    assert "forward" in vars(model.first)


def test_a_layer_of_sequences_before_samples_is_refused_by_name() -> None:
    model = Pieces(lambda first, second, x: second(first(x.mT.mT).transpose(0, 1)).mean(0))
    with pytest.raises(ValueError, match=r"second must run once .* gradients of 4 of 6"):
        gradient_moments(model, five_numbers(4), batch()[1], per_sample, model)


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
        gradient_moments(model, five_numbers(), batch()[1], per_sample, ["first"])
    model.second.weight = model.first.weight
    model.run = lambda first, second, x: second(first(x).tanh())
    with pytest.raises(ValueError, match=r"first\.weight must come from .* It is tied"):
        gradient_moments(model, five_numbers(), batch()[1], per_sample, ["first"])


def test_parameters_that_a_known_type_should_not_have_are_refused() -> None:
    distilled = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    with pytest.raises(ValueError, match=r"the module must be .* dist_token"):
        GradientMoments(distilled)
    line = nn.Linear(3, 3)
    line.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"got Linear with weight, bias, scale"):
        GradientMoments(line)


def test_a_norm_over_the_batch_is_refused_anywhere_in_the_model() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).double()
    data = five_numbers(), batch()[1]
    with pytest.raises(ValueError, match=r"1 must treat each sample apart, got BatchNorm1d"):
        gradient_moments(model, *data, per_sample, ["0"])
    model.eval()
    found = gradient_moments(model, *data, per_sample, ["0"])
    assert_close(found, loop(model, *data, per_sample, part="0"), 1e-10)


def test_moments_are_float32_also_where_autocast_covers_the_backward_pass() -> None:
    model, (images, labels) = vit(torch.float32), batch(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient_moments(model, images, labels, per_sample, ["blocks"])
    kinds = {kind for one in found.values() for kind in (one.mean.dtype, one.variance.dtype)}
    assert kinds == {torch.float32}


def test_the_criterion_must_give_one_loss_per_sample() -> None:
    with pytest.raises(ValueError, match="criterion must return 6 losses"):
        gradient_moments(vit(), *batch(), cross_entropy, ["blocks"])


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
        ends.append(torch.cat([one.detach().flatten() for one in without_key_bias(model)]))
    assert (ends[0] - ends[1]).abs().max() <= difference


def without_key_bias(model: nn.Module) -> list[Tensor]:
    """All parameters but the key biases: their gradient is rounding, which AdamW makes lr."""
    own = []
    for name, parameter in model.named_parameters():
        parts = parameter.chunk(3)[::2] if name.endswith("qkv.bias") else [parameter]
        own += parts
    return own


def variant_of(variant: str, position: str, block: nn.Module) -> nn.Module:
    """A model of each variant in float64 with biases away from 0."""
    trunk, draws = vit(), generator(0, "bridge")
    if variant == "vanilla":
        model = trunk
    elif variant == "auxiliary":
        model = rectified.auxiliary(trunk, block, generator=draws)
    elif variant in ("adapter", "mlp"):
        build = rectified.adapter if variant == "adapter" else rectified.mlp
        model = build(trunk, block.hidden, position, generator=draws)
    else:
        build = rectified.tuned if variant == "tuned" else rectified.insert
        model = build(trunk, block, position, generator=draws)
    return model.double().train()


def two_losses(outputs: Tensor | tuple, targets: Tensor) -> Tensor:
    """The total loss of each sample, of one path or of two."""
    paths = outputs if isinstance(outputs, tuple) else (outputs, None)
    losses = [None if one is None else per_sample(one, targets) for one in paths]
    return losses[0] if losses[1] is None else 0.7 * losses[0] + 0.3 * losses[1]


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the language model's norm compute in float64: Hugging Face's goes to float32."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        scale = hidden.square().mean(-1, keepdim=True) + self.variance_epsilon
        return self.weight * hidden * scale.rsqrt()

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@BOTH_MODES
@pytest.mark.usefixtures("exact_norm")
@pytest.mark.parametrize(
    ("variant", "position"),
    [
        ("vanilla", "end"),
        ("auxiliary", "end"),
        *itertools.product(VARIANTS[1:2] + VARIANTS[3:], ("early", "middle", "end")),
    ],
)
def test_the_moments_of_every_variant_and_position(
    variant: str, position: str, mode: str, block: nn.Module
) -> None:
    model, (images, labels) = variant_of(variant, position, block), batch()
    trunk = model if variant == "vanilla" else model.vit
    watched = GradientMoments({"blocks": trunk.blocks}, mode)
    for _ in range(3):  # random and trained weights
        expected = loop(trunk, images, labels, two_losses, forward=model)
        with watched:
            two_losses(model(images), labels).mean().backward()
        assert_close(watched.moments(), expected, 1e-10)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        optimizer.step()
        optimizer.zero_grad()


def test_the_whole_vit_can_be_asked_for() -> None:
    for settings in (
        {},
        {"no_embed_class": True, "reg_tokens": 2},
        {"reg_tokens": 1},
        {"class_token": False, "global_pool": "avg"},
    ):
        model, (images, labels) = vit(**settings), batch()
        found = gradient_moments(model, images, labels, per_sample, model)
        assert_close(found, loop(model, images, labels, per_sample, part=""), 1e-10)
        assert {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"} < found.keys()


def test_parameters_can_be_asked_for_by_name() -> None:
    model, data = vit(), batch()
    names = ["pos_embed", "cls_token", "patch_embed", "blocks.0.attn.qkv.weight"]
    found = gradient_moments(model, *data, per_sample, names)
    expected = loop(model, *data, per_sample, part="")
    wanted = {name for name in expected if name.startswith(tuple(names))}
    assert_close(found, {name: expected[name] for name in wanted}, 1e-10)
    with pytest.raises(ValueError, match=r"modules must be parts of .* got 'block'.* patch_embed"):
        gradient_moments(model, *data, per_sample, ["block"])
    with pytest.raises(ValueError, match=r"modules must be parts of .* got Linear"):
        gradient_moments(model, *data, per_sample, [nn.Linear(2, 2)])


@pytest.mark.parametrize("window", [{"padding": 1}, {"stride": 2, "dilation": 2}, {"bias": False}])
def test_convolutions_are_measured(window: dict) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, (2, 3), **window)

        def forward(self, images: Tensor) -> Tensor:
            return self.conv(images).square().mean((2, 3))

    torch.manual_seed(0)
    model, (images, _) = Net().double(), batch()
    labels = torch.arange(SAMPLES) % 3
    found = gradient_moments(model, images, labels, per_sample, model)
    assert_close(found, loop(model, images, labels, per_sample, part=""), 1e-10)


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
    stacks = {name: torch.stack(gradients) for name, gradients in expected.items()}
    assert_close(found, {n: (g.mean(0), g.var(0, correction=0)) for n, g in stacks.items()}, 1e-10)


@BOTH_MODES
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_blocks_give_the_same_moments(mode: str, reentrant: bool) -> None:
    model, (images, labels) = vit(), batch()
    images.requires_grad_()  # reentrant checkpoints need an input with a gradient

    def losses() -> Tensor:
        tokens = model._pos_embed(model.patch_embed(images))
        for one in model.blocks:
            tokens = checkpoint(one, tokens, use_reentrant=reentrant)
        return per_sample(model.forward_head(model.norm(tokens)), labels)

    found = measured(model, losses, mode)
    assert_close(found, loop(model, images.detach(), labels, per_sample), 1e-10)


@BOTH_MODES
def test_accumulated_batches_are_one_batch(mode: str) -> None:
    model, (images, labels) = vit(), batch(samples=9)
    expected = loop(model, images, labels, per_sample)
    sizes, parts = (2, 4, 3), []
    for some, own in zip(images.split(sizes), labels.split(sizes), strict=True):
        watched = GradientMoments({"blocks": model.blocks}, mode, scale=len(some) / 9)
        with watched:
            (per_sample(model(some), own).mean() * len(some) / 9).backward()
        parts.append(watched.moments())
    whole = merged(merged(parts[0], parts[1]), parts[2])
    assert_close(whole, expected, 1e-10)
    assert {one.samples for one in whole.values()} == {9}
    assert_close(merged(parts[2], merged(parts[1], parts[0])), expected, 1e-10)


@BOTH_MODES
def test_an_eager_model_with_a_compiled_twin_is_measured(mode: str) -> None:
    model, (images, labels) = vit(), batch()
    compiled = torch.compile(model, backend="aot_eager")
    cross_entropy(compiled(images), labels).backward()
    model.zero_grad()
    found = measured(model, lambda: per_sample(model(images), labels), mode)
    assert_close(found, loop(model, images, labels, per_sample), 1e-10)
    assert not torch.equal(compiled(images), compiled(images.flip(-1)))  # it still runs


def test_compiled_modules_are_refused() -> None:
    model, (images, labels) = vit(), batch()
    compiled = torch.compile(model, backend="aot_eager")
    cross_entropy(compiled(images), labels)
    watched = GradientMoments(model.blocks)
    with watched:  # too late: the compiled code knows no hooks
        cross_entropy(compiled(images), labels).backward()
    with pytest.raises(ValueError, match=r"must run once .* Watch one step of an eager model"):
        watched.moments()
    model.blocks[1].compile(backend="aot_eager")
    with pytest.raises(ValueError, match=r"blocks\.1 must be eager, got a compiled one"):
        GradientMoments({"blocks": model.blocks})


@BOTH_MODES
def test_a_frozen_block_contributes_nothing(mode: str, block: nn.Module) -> None:
    trunk = vit(torch.float32)
    model = rectified.insert(trunk, block, "middle", generator=generator(0, "bridge"))
    images, labels = batch(torch.float32)
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(images), labels).mean().backward()
    names = {name for name, one in model.named_parameters() if one.requires_grad}
    assert watched.moments().keys() == names
    assert not any(".inner." in name for name in names)


def test_a_main_or_auxiliary_loss_is_measured_apart(block: nn.Module) -> None:
    model, (images, labels) = variant_of("auxiliary", "end", block), batch()
    watched = GradientMoments({"blocks": model.vit.blocks})
    gradients = []
    for apart in (None, 0, 1):
        with watched:
            paths = [per_sample(one, labels).mean() for one in model(images)]
            if apart is not None:
                watched.measure(paths[apart])
            total_loss(*paths, 0.3).backward()
        if apart is not None:

            def alone(outputs: tuple, targets: Tensor, path: int = apart) -> Tensor:
                return per_sample(outputs[path], targets)

            expected = loop(model.vit, images, labels, alone, forward=model)
            assert_close(watched.moments(), expected, 1e-6)  # the norm's float32
        gradients.append(model.vit.blocks[0].mlp.fc1.weight.grad.clone())
        model.zero_grad()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


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
    for name, one in found.items():
        assert one.mean.dtype == torch.float32
        assert one.variance.min() > 0, name  # squares of 1e-6 are 0 in float16
        assert (one.variance / expected[name].variance).log().abs().max() < 0.5, name


def test_unknown_modes_and_dynamic_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of observe, replace, got 'both'"):
        GradientMoments(vit().blocks, "both")
    with pytest.raises(ValueError, match=r"a ViT of fixed size, got VisionTransformer"):
        GradientMoments(vit(dynamic_img_size=True))


RANKS = """
import sys
import torch
from torch.distributed import TCPStore, init_process_group, destroy_process_group
from rectify.gradients import GradientMoments, across_ranks
from tests.moments import assert_close, batch, loop, per_sample, vit

rank, port = int(sys.argv[1]), int(sys.argv[2])
store = TCPStore("127.0.0.1", port, 2, rank == 0)
init_process_group("gloo", store=store, rank=rank, world_size=2)
model, (images, labels) = vit(), batch(samples=8)
for mode in ("observe", "replace"):
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    watched = GradientMoments({"blocks": model.blocks}, mode)
    own = slice(4 * rank, 4 * rank + 4)
    with watched:
        per_sample(parallel(images[own]), labels[own]).mean().backward()
    found, expected = across_ranks(watched.moments()), loop(model, images, labels, per_sample)
    assert_close(found, expected, 1e-10)
    assert {one.samples for one in found.values()} == {8}
    gradient = model.blocks[0].mlp.fc1.weight.grad
    assert (gradient - expected["blocks.0.mlp.fc1.weight"][0]).norm() < 1e-12
    model.zero_grad()
destroy_process_group()
print("equal")
"""


def test_two_processes_have_the_moments_of_the_whole_batch() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS, str(rank), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ends = [rank.communicate(timeout=300) for rank in ranks]
    assert [out.strip() for out, _ in ends] == ["equal", "equal"], ends
