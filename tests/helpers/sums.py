"""The slow oracle of the sums that the kernels form: all samples' gradients at once, in float64."""

import torch
from torch import Tensor


def assert_sums(
    sums: tuple[Tensor, ...],
    inputs: Tensor,
    delta: Tensor,
    limit: float,
    origins: list[list[int]] | None = None,
) -> None:
    """Compare the sums of the gradients of a linear layer's weight, and of their squares.

    Given ``origins``, the products of samples that have one in common follow.
    """
    gradients = torch.einsum("sto,sti->soi", delta.double(), inputs.double())
    expected = [gradients.sum(0), gradients.square().sum(0)]
    if origins is not None:
        products = [
            left * right
            for left, own in zip(gradients, origins, strict=True)
            for right, other in zip(gradients, origins, strict=True)
            if set(own) & set(other)
        ]
        expected.append(torch.stack(products).sum(0))
    given = [values for values in sums if values is not None]
    for values, oracle in zip(given, expected, strict=True):
        assert values.shape == (delta.shape[-1], inputs.shape[-1])
        assert (values - oracle).norm() <= limit * oracle.norm()
