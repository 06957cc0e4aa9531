"""Random feature spaces, and the slow definition of their neighbours."""

import torch
from torch import Tensor


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_neighbours(values: Tensor, k: int) -> list[list[int]]:
    """The oracle: fp64 cosines of every pair, fully sorted; the item itself is taken out."""
    unit = torch.nn.functional.normalize(values.double())
    cosine = (unit @ unit.T * 2**43).round()
    orders = cosine.argsort(dim=1, descending=True, stable=True).tolist()
    return [[j for j in order if j != i][:k] for i, order in enumerate(orders)]
