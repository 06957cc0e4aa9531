"""The random numbers of the places in an epoch: one row each, whoever reads the item there.

A place keeps its numbers whatever batch, worker or process it falls to: a draw that a batch
shared would correlate the gradients of its samples.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

NUMBERS = 5
SEED = 4  # the column that seeds whatever draws from generators

Draws = Float64[Tensor, "batch 5"]


def draw(places: int, generator: torch.Generator) -> Float64[Tensor, "places 5"]:
    """Return the random numbers of the places of an epoch, in 0 .. 1."""
    return torch.rand(places, NUMBERS, dtype=torch.float64, generator=generator)


def seeds(draws: Draws) -> Int64[Tensor, " batch"]:
    """Return the seeds of what draws from generators, place by place."""
    return (draws[:, SEED] * 2**53).to(torch.int64)
