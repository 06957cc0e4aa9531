"""A layer's sums as gradients, which a compiled model can return.

A compiled backward pass calls nobody: what it gives are gradients. So each measured parameter has
two tensors, its slots, that nothing is computed from and whose gradients are defined as the sums
over the samples of its gradients and of their squares. One more counts samples and passes.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rectify.gsnr.kernels import Sums
from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.statistics import Moments
from rectify.gsnr.tap import Gather, Gathered


class Slots(Gather):
    """The slots of one layer, and the tap that fills them."""

    def __init__(self, layer: WatchedLayer):
        self._layer = layer
        like = [parameter for parameter in layer.parameters for _ in ("total", "squares")]
        self.slots = (*map(_slot, like), _slot(layer.parameters[0].new_empty(2)))

    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        """Return the sums, as gradients of the parameters and of the slots; nothing is kept."""
        layer = self._layer
        with torch.autocast(delta.device.type, enabled=False):
            sums = layer.kind.all_sums(layer.module, layer.trainable, inputs, delta, None)
        samples = self.slots[-1].new_full((), layer.kind.samples(inputs, delta))
        counts = torch.stack((samples, torch.ones_like(samples)))
        filled = [part for name in layer.trainable for part in sums[name][:2]]
        return Gathered({name: own.total for name, own in sums.items()}, (*filled, counts))

    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        """Nothing is looked at: an eager pass did that before."""

    def take(self) -> tuple[list[Sums], Tensor] | None:
        """Return the sums of each parameter, how many samples and passes, and empty the slots.

        None if no backward pass filled them.
        """
        filled = [slot.grad for slot in self.slots]
        for slot in self.slots:
            slot.grad = None
        if any(values is None for values in filled):
            return None
        *parts, counts = filled
        return [Sums(*pair) for pair in zip(parts[::2], parts[1::2], strict=True)], counts


def _slot(like: Tensor) -> Tensor:
    """Return a leaf of this shape that takes no memory until it has a gradient."""
    wide = torch.promote_types(like.dtype, torch.float32)
    zero = torch.zeros((), dtype=wide, device=like.device)
    return zero.expand(like.shape).detach().requires_grad_()


def joined(sums: Sequence[Sums]) -> Sums:
    """Return the sums of several parameters as those of one, ``(entries,)``."""
    total, squares = (torch.cat([own[part].flatten() for own in sums]) for part in (0, 1))
    return Sums(total, squares)


def parted(moments: Moments, like: Sequence[Sums]) -> Iterator[Moments]:
    """Give the moments of each parameter from those of all, in the order of ``joined``."""
    sizes = [own.total.numel() for own in like]
    parts = zip(like, moments.mean.split(sizes), moments.variance.split(sizes), strict=True)
    for own, mean, variance in parts:
        yield Moments(mean.view_as(own.total), variance.view_as(own.total), moments.samples)
