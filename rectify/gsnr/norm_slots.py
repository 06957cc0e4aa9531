"""Squared norms of a layer as the gradient of one tensor, which a compiled model can return."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.slots import Slotted
from rectify.gsnr.tap import Gathered


class NormSlots(Slotted):
    """One slot: the squared norm of each measured sample, and the mean over sets of linked ones.

    Attributes:
        sets: The measured sets of linked samples, all of one size, on the device; None where
            samples are independent. Set anew for each pass.
    """

    def __init__(self, layer: WatchedLayer, measured: int):
        like = layer.parameters[0]
        wide = torch.promote_types(like.dtype, torch.float32)
        slot = torch.zeros(measured + 1, dtype=wide, device=like.device, requires_grad=True)
        super().__init__(layer, (slot,))
        self._measured = measured
        self.sets: Int64[Tensor, "sets size"] | None = None

    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        """Return the norms as the gradient of the slot; nothing is kept."""
        kind, (own,) = self.layer.kind, self.slots
        of_pass = self.layer.module, self.layer.trainable, inputs, delta
        with torch.autocast(delta.device.type, enabled=False):
            squares = kind.norms_of_first(*of_pass, self._measured).to(own.dtype)
            linked = own.new_zeros(1) if self.sets is None else kind.norms(*of_pass, self.sets)
        squares = pad(squares, (0, self._measured - len(squares)))
        return Gathered({}, (torch.cat([squares, linked.to(own.dtype).mean()[None]]),))

    def take(self) -> tuple[Float[Tensor, " samples"], Float[Tensor, ""]] | None:
        """Return the norms and that mean; None if no backward pass filled the slot."""
        gradient = self.slots[0].grad
        if gradient is None:
            return None
        return gradient[: min(self.samples, self._measured)], gradient[-1]
