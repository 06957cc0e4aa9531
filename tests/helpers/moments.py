"""What the tests of moments share: small models, a batch, and the slow oracle."""

import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gsnr.moments import GradientMoments, Moments
from rectify.results.declared import GSNR_MODES
from tests.helpers.processes import run_scripts

SAMPLES = 6

OTHER_OPTIONS = [
    {"groups": 2},
    {"groups": 4, "stride": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid"},
    {"padding": 1, "padding_mode": "circular", "stride": 2},
    {"padding": 1, "padding_mode": "reflect", "groups": 2},
    {"padding": 2, "padding_mode": "replicate", "bias": False},
]
"""Of convolutions of 4 to 8 channels, beside the plain ones."""

BOTH_MODES = pytest.mark.parametrize("mode", GSNR_MODES)


def vit(dtype: torch.dtype = torch.float64, **settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    settings = {"embed_dim": 16, "num_heads": 2, "depth": 2, "num_classes": 5, **settings}
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, in_chans=1, **settings
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains away from 0 and 1
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.to(dtype).eval()


def batch(dtype: torch.dtype = torch.float64, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 1, 8, 8, generator=draws, dtype=torch.float64)
    return images.to(dtype), torch.randint(5, (samples,), generator=draws)


class Pieces(nn.Module):
    """Two linear layers, called the way that ``run(first, second, values)`` says."""

    def __init__(self, run: Callable) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(5, 5).double(), nn.Linear(5, 5).double()
        self.run = run

    def forward(self, values: Tensor) -> Tensor:
        return self.run(self.first, self.second, values)


class Means(nn.Module):
    """One layer; the outputs are means of squares over all but samples and an axis of features."""

    def __init__(self, layer: nn.Module, features: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.features = layer, features
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn_like(parameter))
        self.double()

    def forward(self, values: Tensor) -> Tensor:
        outputs = self.layer(values).square().movedim(self.features, 1)
        return outputs.reshape(*outputs.shape[:2], -1).mean(2)


def numbers(*sizes: int) -> Tensor:
    """Random numbers for each of ``SAMPLES`` samples."""
    draws = torch.Generator().manual_seed(2)
    return torch.randn(SAMPLES, *sizes, dtype=torch.float64, generator=draws)


def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def measured(
    model: nn.Module, losses: Callable[[], Tensor], mode: str = "observe"
) -> dict[str, Moments]:
    """Take one step on the mean of ``losses()`` with the blocks watched."""
    watched = GradientMoments(model, mode, only=["blocks"])
    with watched:
        losses().mean().backward()
    return watched.moments()


def loop(*args: object, **kwargs: object) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance of ``gradients``."""
    stacks = gradients(*args, **kwargs)
    return {name: (g.mean(0), g.var(0, correction=0)) for name, g in stacks.items()}


def gradients(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Callable,
    part: str = "blocks",
    forward: nn.Module | None = None,
) -> dict[str, Tensor]:
    """The slow oracle: one backward pass per sample, through ``forward`` where it is not model."""
    by_name = {}
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(part) and p.requires_grad]
    for i in range(len(inputs)):
        loss = criterion((forward or model)(inputs[i : i + 1]), targets[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named])
        for (name, _), gradient in zip(named, gradients, strict=True):
            by_name.setdefault(name, []).append(gradient)
    return {name: torch.stack(of_samples) for name, of_samples in by_name.items()}


def of_single_samples(
    losses: Callable[[slice], Tensor], layers: nn.Module, samples: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """The slow oracle: mean and variance of the gradients of one backward pass per sample.

    Args:
        losses: From a part of the samples to their losses.
        layers: Whose parameters are asked for, called ``blocks``.
        samples: How many there are.
    """
    named = {f"blocks.{name}": one for name, one in layers.named_parameters()}
    alone = [
        torch.autograd.grad(losses(slice(one, one + 1)).sum(), list(named.values()))
        for one in range(samples)
    ]
    stacks = {name: torch.stack(g) for name, g in zip(named, zip(*alone, strict=True), strict=True)}
    return {name: (g.mean(0), g.var(0, correction=0)) for name, g in stacks.items()}


def agreement(stack: Tensor, origins: Tensor) -> Tensor:
    """The slow oracle: pair by pair, the mean product of samples without a common origin."""
    made_from = [set(numbers) for numbers in origins.tolist()]
    products = [
        stack[i] * stack[j]
        for i, left in enumerate(made_from)
        for j, right in enumerate(made_from)
        if not left & right
    ]
    return torch.stack(products).mean(0)


def assert_agreement(
    moments: dict[str, Moments], stacks: dict[str, Tensor], origins: Tensor, tolerance: float
) -> None:
    assert moments.keys() == stacks.keys()
    for name, stack in stacks.items():
        error = moments[name].agreement - agreement(stack, origins)
        assert error.norm() <= tolerance * stack.square().mean(0).norm(), name


def run_two_processes(script: str) -> None:
    """Run a script in two processes that are told rank and port; each must print "equal"."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    ends = run_scripts(script, [(f"{rank}", f"{port}") for rank in range(2)])
    assert [said.strip() for said in ends] == ["equal", "equal"], ends


def assert_says(word: str, script: str, *arguments: str) -> None:
    """Run a script in a process without annotation checks, which break graphs of the compiler."""
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() == word, ended.stderr


def assert_close(
    moments: dict[str, Moments], expected: dict[str, tuple[Tensor, Tensor]], tolerance: float
) -> None:
    assert moments.keys() == expected.keys()
    for name, (mean, variance) in expected.items():
        if name.endswith("key.bias"):  # its gradient is 0, and what is found rounding noise
            assert mean.norm() <= tolerance * expected[name.replace("key", "query")][0].norm()
            continue
        pairs = (moments[name].mean, mean), (moments[name].variance, variance)
        for values, oracle in pairs:
            if name.endswith("qkv.bias"):  # the key's part has a gradient of 0
                values, oracle = (torch.cat(v.chunk(3)[::2]) for v in (values, oracle))
            assert (values - oracle).norm() <= tolerance * oracle.norm(), name
