"""What the tests of moments share: a tiny ViT, a batch, and the slow oracle."""

from collections.abc import Callable

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rectify.gradients import Moments

SAMPLES = 6


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


def per_sample(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets, reduction="none")


def loop(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    criterion: Callable,
    part: str = "blocks",
    forward: nn.Module | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """The slow oracle: one backward pass per sample, through ``forward`` where it is not model."""
    found = {}
    named = [(n, p) for n, p in model.named_parameters() if n.startswith(part) and p.requires_grad]
    for i in range(len(inputs)):
        loss = criterion((forward or model)(inputs[i : i + 1]), targets[i : i + 1]).sum()
        gradients = torch.autograd.grad(loss, [parameter for _, parameter in named])
        for (name, _), gradient in zip(named, gradients, strict=True):
            found.setdefault(name, []).append(gradient)
    stacks = {name: torch.stack(gradients) for name, gradients in found.items()}
    return {name: (g.mean(0), g.var(0, correction=0)) for name, g in stacks.items()}


def assert_close(
    found: dict[str, Moments], expected: dict[str, tuple[Tensor, Tensor]], tolerance: float
) -> None:
    assert found.keys() == expected.keys()
    for name, (mean, variance) in expected.items():
        for own, other in ((found[name].mean, mean), (found[name].variance, variance)):
            if name.endswith("qkv.bias"):
                own, other = (torch.cat(values.chunk(3)[::2]) for values in (own, other))
            assert (own - other).norm() <= tolerance * other.norm(), name
