"""The objective of one batch: the main loss, and the auxiliary one with its falling weight."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LAMBDA_FLOOR = 0.10  # Eq. 9


class Objective(NamedTuple):
    """Mean losses of a batch."""

    main: Float[Tensor, ""]
    auxiliary: Float[Tensor, ""] | None
    total: Float[Tensor, ""]

    @classmethod
    def of(
        cls, main: Float[Tensor, ""], auxiliary: Float[Tensor, ""] | None, weight: float
    ) -> "Objective":
        """Return the losses with their total, (1 - lambda) main + lambda auxiliary (Eq. 10).

        Without an auxiliary loss the total is ``main``.
        """
        if auxiliary is None:
            return cls(main, None, main)
        return cls(main, auxiliary, (1 - weight) * main + weight * auxiliary)

    def values(self) -> Float[Tensor, " 3"]:
        """Return the total, main and auxiliary loss without their graph; 0 for one that is not."""
        second = torch.zeros_like(self.main) if self.auxiliary is None else self.auxiliary
        return torch.stack([self.total, self.main, second]).detach()


def auxiliary_weight(
    lambda_init: float, epoch: int, epochs: int, lambda_floor: float = LAMBDA_FLOOR
) -> float:
    """Return lambda of Eq. 9 for an epoch counted from 0; 0 where there is no second path.

    It falls linearly from ``lambda_init`` and stays at the floor, except that
    ``lambda_init = 0`` means no auxiliary loss: the floor would forbid that.
    """
    if lambda_init == 0:
        return 0.0
    return max(lambda_floor, lambda_init * (epochs - epoch) / epochs)
