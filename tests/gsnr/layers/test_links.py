"""Every type of layer with samples that share something: against products pair by pair."""

import copy

import pytest
import timm.layers
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from rectify.gsnr.contract import LayerType
from rectify.gsnr.links import Links
from rectify.gsnr.lookup import layer_types
from rectify.gsnr.measure import gradient_moments
from rectify.gsnr.tap import Gather, Gathered
from tests.helpers.moments import Means, assert_agreement, gradients, numbers, per_sample
from tests.helpers.waits import Strays

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
ROWS = torch.randint(7, (6, 20), generator=torch.Generator().manual_seed(3))
CASES: dict[type[nn.Module], tuple[nn.Module, Tensor, int]] = {
    nn.Linear: (nn.Linear(5, 4), numbers(7, 5), -1),
    nn.LayerNorm: (nn.LayerNorm(5), numbers(7, 5), -1),
    timm.layers.LayerNorm: (timm.layers.LayerNorm(5), numbers(7, 5), -1),
    timm.layers.LayerScale: (timm.layers.LayerScale(5), numbers(7, 5), -1),
    nn.Conv1d: (nn.Conv1d(4, 3, 2), numbers(4, 11), 1),
    nn.Conv2d: (nn.Conv2d(2, 3, 2), numbers(2, 5, 6), 1),
    nn.Conv3d: (nn.Conv3d(2, 4, 2, groups=2), numbers(2, 3, 5, 6), 1),
    nn.GroupNorm: (nn.GroupNorm(2, 4), numbers(4, 5), 1),
    nn.InstanceNorm1d: (nn.InstanceNorm1d(4, affine=True), numbers(4, 5), 1),
    nn.BatchNorm1d: (nn.BatchNorm1d(4).eval(), numbers(4, 5), 1),
    nn.RMSNorm: (nn.RMSNorm(5), numbers(7, 5), -1),
    LlamaRMSNorm: (LlamaRMSNorm(5), numbers(7, 5), -1),
    Conv1D: (Conv1D(4, 5), numbers(7, 5), -1),
    nn.Embedding: (nn.Embedding(9, 3, padding_idx=4), ROWS, -1),
}
ORIGINS = [
    [[0, 5], [1, 4], [2, 3], [3, 2], [4, 1], [5, 0]],
    [[0, 1], [1, 2], [2, 3], [3, 3], [4, 5], [6, 6]],
]


def test_no_type_is_forgotten() -> None:
    """A ViT's own parameters are in ``test_moments``; types of one file are one case."""
    found = {type(kind_of(layer)) for layer in CASES}
    assert found | {type(kind_of(VisionTransformer))} == set(map(type, layer_types().values()))


def kind_of(layer: type[nn.Module]) -> LayerType:
    known = layer_types()
    return known.get(layer) or known[f"{layer.__module__}.{layer.__qualname__}"]


@pytest.mark.parametrize("layer", CASES, ids=lambda layer: f"{layer.__module__}.{layer.__name__}")
@pytest.mark.parametrize("origins", ORIGINS, ids=["partners", "overlapping"])
def test_the_agreement_of_a_layer(layer: type[nn.Module], origins: list[list[int]]) -> None:
    module, inputs, features = CASES[layer]
    model = Means(module, features)
    stacks = gradients(model, inputs, LABELS, per_sample, "")
    found = gradient_moments(model, inputs, LABELS, per_sample, model, torch.tensor(origins))
    assert_agreement(found, stacks, torch.tensor(origins), 1e-10)


class Kept(Gather):
    """Keeps what a tap shows."""

    def __call__(self, *seen: Tensor | None) -> Gathered:
        self.seen = seen
        return Gathered({})

    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        pass


@pytest.mark.parametrize("layer", CASES, ids=lambda layer: f"{layer.__module__}.{layer.__name__}")
@pytest.mark.parametrize("origins", [None, *ORIGINS], ids=["apart", "partners", "overlapping"])
def test_the_sums_of_a_layer_wait_for_no_device(
    layer: type[nn.Module], origins: list[list[int]] | None
) -> None:
    """Nor for copies of the samples that are linked: those were moved once, for all layers."""
    kind, (module, inputs, features), kept = kind_of(layer), CASES[layer], Kept()
    model = Means(copy.deepcopy(module), features)
    with kind.tap(model.layer, kept):
        model(inputs).square().sum().backward()
    links = None if origins is None else Links(torch.tensor(origins), "meta")
    model.to("meta")
    names = [name for name, _ in model.layer.named_parameters()]
    of_pass = (model.layer, names, *(one if one is None else one.to("meta") for one in kept.seen))
    with Strays() as strays:
        kind.all_sums(*of_pass, links)
        kind.norms_of_first(*of_pass, 4)
        for _, rows in links.rows() if links is not None else ():
            kind.norms(*of_pass, rows)
    assert not strays.calls
