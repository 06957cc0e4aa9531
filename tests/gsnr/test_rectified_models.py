"""Moments of the blocks of every rectified model, against a loop over samples."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from rectify import rectified
from rectify.controls import CONTROLS
from rectify.gsnr.moments import GradientMoments
from rectify.results.declared import GSNR_MODES
from rectify.runtime import generator
from rectify.trunks.kinds import as_trunk
from tests.helpers.moments import BOTH_MODES, assert_close, batch, loop, per_sample, vit

OTHERS = [
    *(("auxiliary", control, "end") for control in CONTROLS),
    *itertools.product(
        ["insert", "residual"],
        [name for name, control in CONTROLS.items() if "insert" in control.variants],
        ("early", "middle", "end"),
    ),
]
OTHERS.remove(("insert", "frozen", "middle"))


def model_of(variant: str, control: str, position: str, block: nn.Module) -> nn.Module:
    """A model of each variant in float64 with biases away from 0."""
    trunk, draws = as_trunk(vit()), generator(0, "bridge")
    if variant == "vanilla":
        model = trunk
    elif variant == "auxiliary":
        model = rectified.auxiliary(trunk, block, generator=draws, control=control)
    else:
        how = {"control": control, "residual": variant == "residual"}
        model = rectified.insert(trunk, block, position, generator=draws, **how)
    return model.double().train()


def two_losses(outputs: Tensor | tuple, targets: Tensor) -> Tensor:
    """The total loss of each sample, of one path or of two."""
    paths = outputs if isinstance(outputs, tuple) else (outputs, None)
    losses = [None if path is None else per_sample(path, targets) for path in paths]
    return losses[0] if losses[1] is None else 0.7 * losses[0] + 0.3 * losses[1]


@pytest.fixture
def exact_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the language model's norm compute in float64: Hugging Face's goes to float32."""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self: nn.Module, hidden: Tensor) -> Tensor:
        scale = hidden.square().mean(-1, keepdim=True) + self.variance_epsilon
        return self.weight * hidden * scale.rsqrt()

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@pytest.mark.usefixtures("exact_norm")
@pytest.mark.parametrize(
    ("variant", "control", "position", "mode"),
    [
        *(("vanilla", "frozen", "end", mode) for mode in GSNR_MODES),
        *(("insert", "frozen", "middle", mode) for mode in GSNR_MODES),
        *(
            pytest.param(*place, mode, marks=pytest.mark.slow)
            for place, mode in zip(OTHERS, itertools.cycle(GSNR_MODES), strict=False)
        ),
    ],
)
def test_the_moments_of_every_variant_and_position(
    variant: str, control: str, position: str, mode: str, block: nn.Module
) -> None:
    model, (images, labels) = model_of(variant, control, position, block), batch()
    trunk = rectified.trunk_of(model).vit
    watched = GradientMoments({"blocks": trunk.blocks}, mode)
    for _ in range(2):  # random and trained weights
        expected = loop(trunk, images, labels, two_losses, forward=model)
        with watched:
            two_losses(model(images), labels).mean().backward()
        assert_close(watched.moments(), expected, 1e-10)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        optimizer.step()
        optimizer.zero_grad()


@BOTH_MODES
def test_a_frozen_block_contributes_nothing(mode: str, block: nn.Module) -> None:
    trunk = vit(torch.float32)
    model = rectified.insert(trunk, block, "middle", generator=generator(0, "bridge"))
    images, labels = batch(torch.float32)
    watched = GradientMoments(model, mode)
    with watched:
        per_sample(model(images), labels).mean().backward()
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert watched.moments().keys() == names
    assert not any("bridge.layer" in name for name in names)


def test_a_main_or_auxiliary_loss_is_measured_alone(block: nn.Module) -> None:
    model, (images, labels) = model_of("auxiliary", "frozen", "end", block), batch()
    watched = GradientMoments({"blocks": model.trunk.vit.blocks})
    gradients = []
    for measured_path in (None, 0, 1):
        with watched:
            main, auxiliary = (per_sample(outputs, labels).mean() for outputs in model(images))
            if measured_path is not None:
                watched.measure((main, auxiliary)[measured_path])
            (0.7 * main + 0.3 * auxiliary).backward()
        if measured_path is not None:

            def alone(outputs: tuple, targets: Tensor, path: int = measured_path) -> Tensor:
                return per_sample(outputs[path], targets)

            expected = loop(model.trunk.vit, images, labels, alone, forward=model)
            assert_close(watched.moments(), expected, 1e-6)  # the norm's float32
        gradients.append(model.trunk.vit.blocks[0].mlp.fc1.weight.grad.clone())
        model.zero_grad()
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])
