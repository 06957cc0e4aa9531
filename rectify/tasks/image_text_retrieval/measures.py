"""Is what belongs together found among everything else?"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def ranks(
    scores: Float[Tensor, "items candidates"], true: Bool[Tensor, "items candidates"]
) -> Int64[Tensor, " items"]:
    """Return how many false candidates are before the best true one; a tie is before it.

    A score that is no number is below nothing, and whatever it is compared with is before it.

    Args:
        scores: Of every candidate.
        true: Those that belong to the item, one at least.
    """
    best = scores.masked_fill(~true, -torch.inf).amax(1, keepdim=True)
    behind = (scores < best) & ~true
    return (~true).sum(1) - behind.sum(1)


def losses(
    scores: Float[Tensor, "items candidates"], true: Bool[Tensor, "items candidates"]
) -> Float[Tensor, " items"]:
    """Return the cross entropy of finding a true candidate among all: of one, the usual one."""
    among = scores.masked_fill(~true, -torch.inf).logsumexp(1)
    return scores.logsumexp(1) - among
