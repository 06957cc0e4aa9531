"""The slow oracle of the sums that the kernels form: all samples' gradients at once, in float64."""

import torch
from torch import Tensor


def assert_sums(sums: tuple[Tensor, Tensor], inputs: Tensor, delta: Tensor, limit: float) -> None:
    """Compare the sums of the gradients, and of their squares, of a linear layer's weight."""
    gradients = torch.einsum("sto,sti->soi", delta.double(), inputs.double())
    expected = gradients.sum(0), gradients.square().sum(0)
    for values, oracle in zip(sums, expected, strict=True):
        assert values.shape == (delta.shape[-1], inputs.shape[-1])
        assert (values - oracle).norm() <= limit * oracle.norm()
