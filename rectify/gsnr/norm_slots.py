"""Squared norms of a layer as the gradient of one tensor, which a compiled model can return.

As in ``slots`` nothing is computed from the tensor. The tap behind the layer gives the squared
norms as its gradient. Each layer has its own, so that one that ran twice cannot stand for one that
did not run.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.tap import Gather, Gathered


class Filled(NamedTuple):
    """What the slots of some layers got in a pass."""

    squares: Float64[Tensor, "layers measured"]
    """Of the gradient of each measured sample."""
    linked: Float64[Tensor, " layers"]
    """Mean over the measured sets of linked samples; 0 where there are none."""
    samples: Float64[Tensor, " layers"]
    runs: Float64[Tensor, " layers"]


def _slot(like: Tensor, measured: int) -> Tensor:
    """Return a leaf that has a place for each entry of ``Filled``."""
    wide = torch.promote_types(like.dtype, torch.float32)
    places = measured + len(Filled._fields) - 1
    return torch.zeros(places, dtype=wide, device=like.device, requires_grad=True)


def filled(gathers: Sequence["NormSlots"]) -> Filled | None:
    """Return what the slots of layers have; None if no backward pass reached one of them."""
    gradients = [one.slots[0].grad for one in gathers]
    if any(own is None for own in gradients):
        return None
    table = torch.stack(gradients).double()
    return Filled(table[:, :-3], *table[:, -3:].unbind(1))


class NormSlots(Gather):
    """The slot of one layer, and the tap that fills it.

    Attributes:
        sets: The measured sets of linked samples, all of one size, on the device; None where
            samples are independent. Set anew for each pass.
    """

    def __init__(self, layer: WatchedLayer, measured: int):
        self._layer, self._measured = layer, measured
        self.slots = (_slot(layer.parameters[0], measured),)
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
