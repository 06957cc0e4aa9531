"""Squared norms of samples' gradients by block, gathered in a pass and left on its device.

Nothing here waits for the device: whoever reads the tensors decides when.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from rectify.gsnr.calls import UnmeasurableError
from rectify.gsnr.links import Links
from rectify.gsnr.lookup import WatchedLayer
from rectify.gsnr.moments import GradientMoments
from rectify.gsnr.norm_slots import NormSlots
from rectify.gsnr.tap import Gathered


class Squares(NamedTuple):
    """What a pass gave of the samples' gradients, by block."""

    layers: Mapping[str, Sequence[str]]
    """Names of the layers by block; a block of which nothing is measured is left out."""
    of_samples: Float64[Tensor, "blocks measured"]
    """Squared norm of each measured sample's gradient."""
    samples: int
    """Of the pass."""
    linked: Float64[Tensor, " blocks"]
    """Sum over the ordered pairs of linked samples of their products."""
    pairs: int
    """How many such pairs there are: without links each sample with itself."""


class SquaredNorms(GradientMoments):
    """Gathers squared norms in the place of moments.

    Attributes:
        samples: Of the last pass; 0 before.
    """

    def __init__(
        self, modules: nn.Module | Mapping[str, nn.Module], measured: int | None, **options: Any
    ):
        """Find the layers to watch.

        Args:
            modules: Blocks by name; or a single module, whose name is empty.
            measured: How many of a pass's samples are measured, the first ones; None for all.
            options: Of ``GradientMoments``.
        """
        super().__init__(modules, **options)
        self._blocks = list(modules) if isinstance(modules, Mapping) else [""]
        self._measured, self.samples = measured, 0

    @property
    def by_layer(self) -> dict[str, list[nn.Parameter]]:
        """The measured parameters, by layer."""
        return {record.layer.name: record.layer.parameters for record in self._records}

    @property
    def is_compiled(self) -> bool:
        """Whether the watched model may be a compiled one in the pass that is entered.

        Never where that of moments may not, nor where a layer is left out.
        """
        return super().is_compiled and not self.by_layer.keys() & self.skipped.keys()

    @property
    def is_paused(self) -> bool:
        """Whether the backward pass that runs is one that looks whether samples stay apart."""
        return self._apart is not None and self._apart.is_paused

    def __enter__(self) -> "SquaredNorms":
        self._squares = dict[str, Tensor]()  # of each measured sample, by layer
        self._linked = dict[str, Tensor]()  # by layer, where samples are linked
        self._sets = [] if self.links is None else self._first_sets(self.links)
        super().__enter__()
        return self

    def squares(self, samples: int | None = None) -> Squares:
        """Return what was gathered.

        Args:
            samples: As of ``GradientMoments.moments``.

        Raises:
            ValueError: As of ``GradientMoments.moments``; if there are fewer than two samples, all
                are linked, or a compiled pass has more samples than its slots.
        """
        self.moments(samples)
        names = [name for name in self.by_layer if name not in self.skipped]
        by_name = {
            block: [name for name in names if _is_within(block, name)] for block in self._blocks
        }
        layers = {block: own for block, own in by_name.items() if own}
        names, counts = list(chain(*layers.values())), [*map(len, layers.values())]
        self.samples = next(one.samples for one in self._records if one.layer.name == names[0])
        of_samples = by_block(torch.stack([self._squares[name] for name in names]), counts)
        self._check(next(iter(layers)), of_samples.shape[1])
        unit = (self.samples / self.scale) ** 2  # gradients carry ``scale / samples``
        of_samples = unit * of_samples
        if self.links is None:
            linked, pairs = self.samples * of_samples.mean(1), self.samples
        else:
            linked = unit * by_block(torch.stack([self._linked[name] for name in names]), counts)
            pairs = self.links.pairs
        return Squares(layers, of_samples, self.samples, linked, pairs)

    def _count(self, samples: int) -> int:
        """Return how many samples of a pass are measured."""
        return min(self._measured or samples, samples)

    def _first_sets(self, links: Links) -> list[tuple[int, Int64[Tensor, "sets size"]]]:
        """Return the measured sets of linked samples, which stand for all, and their weights."""
        share = self._count(links.samples) / links.samples
        return [
            (weight * len(rows), rows[: math.ceil(share * len(rows))])
            for weight, rows in links.rows()
        ]

    def _check(self, block: str, measured: int) -> None:
        where = f"gradient_norms: {block or 'the module'}"
        if measured < 2:
            raise ValueError(f"{where}: at least 2 samples are needed, got {measured}. Use more.")
        if measured < self._count(self.samples):
            raise ValueError(
                f"{where}: a compiled pass must have at most the {measured} samples of the first "
                f"one, got {self.samples}. Say how many are measured, or measure the largest first."
            )
        if self.links is not None and self.links.pairs == self.samples**2:
            raise ValueError(
                f"{where}: some of the {self.samples} samples must share nothing with each other, "
                "got all linked by Mixup or as copies. Measure larger batches."
            )

    def _slots_of(self, layer: WatchedLayer) -> NormSlots:
        if layer.name not in self._slots:
            self._slots[layer.name] = NormSlots(layer, self._measured or self.samples)
        return self._slots[layer.name]

    def _link(self, slots: NormSlots) -> None:
        slots.sets = self._sets[0][1] if self._sets else None

    def _take(self, record: Any, slots: NormSlots) -> None:
        found, name = slots.take(), record.layer.name
        if found is not None:
            self._squares[name], linked = found
            self._linked[name] = linked * self._sets[0][0] if self._sets else linked

    def _gather(self, record: Any, inputs: Any, delta: Any) -> Gathered:
        layer = record.layer
        if self.is_paused or not self._gathers:
            return Gathered({})
        device, samples = layer.parameters[0].device.type, layer.kind.samples(inputs, delta)
        measured = self._count(samples)
        of_pass = layer.module, layer.trainable, inputs, delta
        quiet = nullcontext() if self._apart is None else self._apart.paused()
        try:
            with torch.autocast(device, enabled=False), quiet:
                self._squares[layer.name] = layer.kind.norms_of_first(*of_pass, measured)
                if self.links is not None:
                    norms = partial(layer.kind.norms, *of_pass)
                    self._linked[layer.name] = _linked(norms, self._sets)
        except UnmeasurableError as error:
            record.problem = str(error)
            return Gathered({})
        record.runs, record.samples = record.runs + 1, samples
        record.passes.add(torch._C._current_graph_task_id())
        return Gathered({})


def by_block(
    values: Float[Tensor, "entries ..."], counts: Sequence[int]
) -> Float64[Tensor, "blocks ..."]:
    """Return sums over the entries of each block, in few operations.

    Args:
        values: Of the layers, or parameters, of the first block, then of the second, and so on.
        counts: How many each block has.
    """
    return torch.stack([own.sum(0) for own in values.double().split(counts)])


def check_finite(where: str, is_finite: bool) -> None:
    """Refuse gradients that are not finite; ``where`` begins the message."""
    if not is_finite:
        raise ValueError(f"{where}: gradients must be finite, got inf or nan. Lower training.lr.")


def _is_within(block: str, layer: str) -> bool:
    return block in ("", layer) or layer.startswith(f"{block}.")


def _linked(
    norms: Callable[[Tensor], Tensor], sets: Sequence[tuple[int, Tensor]]
) -> Float[Tensor, ""]:
    """Return the sum of the products of linked samples, by the squared norms of sets of them."""
    return sum(count * norms(rows).mean() for count, rows in sets)
