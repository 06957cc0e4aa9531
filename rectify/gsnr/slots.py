"""A layer's sums as gradients, which a compiled model can return.

A compiled backward pass calls nobody: what it gives are gradients. So a layer has tensors, its
slots, that nothing is computed from and whose gradients are defined as what is measured. Samples
and passes are counted in Python, which the compiler repeats after its own code: a number on a GPU
would have to be waited for.
"""

from typing import Any

import torch
from torch import Tensor

from rectify.gsnr.kernels import Sums
from rectify.gsnr.links import Links
from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.tap import Gather, Gathered


class Slotted(Gather):
    """A layer's tap that has slots: a subclass says what they are, and fills them."""

    def __init__(self, layer: WatchedLayer, slots: tuple[Tensor, ...]):
        self.layer, self.slots = layer, slots
        self._samples, self._runs, self._passes = 0, 0, 0
        self.slots[0].register_post_accumulate_grad_hook(self._count)

    @property
    def runs(self) -> int:
        """How often the layer ran, forward and backward."""
        return max(self._runs, self._passes) if self._passes else 0

    @property
    def samples(self) -> int:
        """How many samples' gradients it saw."""
        return self._samples if self._passes else 0

    def _count(self, _slot: Tensor) -> None:
        self._passes += 1

    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        """Count the samples; whether they stay apart, an eager pass looked at before."""
        self._samples = values.shape[axis] if rows is None else rows
        self._runs += 1

    def clear(self) -> None:
        """Empty the slots, before a pass."""
        self._samples, self._runs, self._passes = 0, 0, 0
        for slot in self.slots:
            slot.grad = None


class Slots(Slotted):
    """Three slots for each parameter: its sums, of gradients, squares and products of linked.

    Attributes:
        links: Which samples share something, on the device; None if all are independent. Set anew
            for each pass.
    """

    def __init__(self, layer: WatchedLayer):
        self.links: Links | None = None
        super().__init__(
            layer, tuple(map(_slot, (own for own in layer.parameters for _ in Sums._fields)))
        )

    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        """Return the sums, as gradients of the parameters and of the slots; nothing is kept."""
        layer = self.layer
        with torch.autocast(delta.device.type, enabled=False):
            sums = layer.kind.all_sums(layer.module, layer.trainable, inputs, delta, self.links)
        filled = tuple(part for name in layer.trainable for part in sums[name])
        return Gathered({name: own.total for name, own in sums.items()}, filled)

    def take(self) -> dict[str, Sums]:
        """Return the sums of each parameter, none if no backward pass filled the slots."""
        by_field = (
            [slot.grad for slot in self.slots[place :: len(Sums._fields)]]
            for place in range(len(Sums._fields))
        )
        found = [Sums(*parts) for parts in zip(*by_field, strict=True)]
        if any(own.total is None for own in found):
            return {}
        names = map(self.layer.full_name, self.layer.trainable)
        return dict(zip(names, found, strict=True))


def _slot(like: Tensor) -> Tensor:
    """Return a leaf of this shape that takes no memory until it has a gradient."""
    wide = torch.promote_types(like.dtype, torch.float32)
    zero = torch.zeros((), dtype=wide, device=like.device)
    return zero.expand(like.shape).detach().requires_grad_()
