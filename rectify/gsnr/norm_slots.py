"""Squared norms of a block as the gradient of one tensor, which a compiled model can return.

As in ``slots`` nothing is computed from the tensor. The tap behind each layer of the block gives
the layer's squared norms as its gradient, and autograd adds up what several layers give.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.tap import Gather, Gathered


class Filled(NamedTuple):
    """What the slots of all blocks got in a pass; sums over the layers of a block."""

    squares: Float64[Tensor, "blocks measured"]
    """Of the gradient of each measured sample."""
    linked: Float64[Tensor, " blocks"]
    """Mean over the measured sets of linked samples; 0 where there are none."""
    samples: Float64[Tensor, " blocks"]
    runs: Float64[Tensor, " blocks"]


def slot(like: Tensor, measured: int) -> Tensor:
    """Return the slot of a block: a leaf that has a place for each entry of ``Filled``.

    Args:
        like: One of the block's parameters.
        measured: How many samples are measured.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    places = measured + len(Filled._fields) - 1
    return torch.zeros(places, dtype=wide, device=like.device, requires_grad=True)


def filled(slots: list[Tensor]) -> Filled | None:
    """Return what the slots have; None if no backward pass reached one of them."""
    gradients = [one.grad for one in slots]
    if any(own is None for own in gradients):
        return None
    table = torch.stack(gradients).double()
    return Filled(table[:, :-3], *table[:, -3:].unbind(1))


class NormSlots(Gather):
    """The tap of one layer, which fills its block's slot.

    Attributes:
        sets: The measured sets of linked samples, all of one size, on the device; None where
            samples are independent. Set anew for each pass.
    """

    def __init__(self, layer: WatchedLayer, block_slot: Tensor, measured: int):
        self._layer, self._measured = layer, measured
        self.slots = (block_slot,)
        self.sets: Int64[Tensor, "sets size"] | None = None

    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        """Return the norms as the gradient of the slot; nothing is kept."""
        kind, (own,) = self._layer.kind, self.slots
        of_pass = self._layer.module, self._layer.trainable, inputs, delta
        with torch.autocast(delta.device.type, enabled=False):
            squares = kind.norms_of_first(*of_pass, self._measured).to(own.dtype)
            linked = own.new_zeros(()) if self.sets is None else kind.norms(*of_pass, self.sets)
        counts = own.new_full((1,), kind.samples(inputs, delta)), own.new_ones(1)
        return Gathered({}, (torch.cat([squares, linked.to(own.dtype).mean()[None], *counts]),))

    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        """Nothing is looked at: an eager pass did that before."""

    def clear(self) -> None:
        """Empty the slot, before a pass."""
        self.slots[0].grad = None
