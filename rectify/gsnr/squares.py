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
from rectify.gsnr.moments import GradientMoments
from rectify.gsnr.tap import Gathered


class Squares(NamedTuple):
    """What a pass gave of the samples' gradients."""

    layers: Mapping[str, Sequence[str]]
    """Names of the layers by block; a block of which nothing is measured is left out."""
    of_samples: Float64[Tensor, "blocks measured"]
    """Squared norm of each measured sample's gradient of a block."""
    linked: Float64[Tensor, " blocks"] | None
    """Sum over the ordered pairs of linked samples of their products; None without links."""
    samples: int
    """Of the pass."""
    pairs: int
    """Ordered pairs of linked samples; without links each sample with itself."""


class SquaredNorms(GradientMoments):
    """Gathers squared norms in the place of moments."""

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
        self._measured = measured

    def of_pass(
        self, scale: float, origins: Int64[Tensor, "samples origins"] | None
    ) -> "SquaredNorms":
        """Take note of what the next passes are, as ``GradientNorms.of_pass`` has it."""
        self.scale, self.links = scale, None if origins is None else Links(origins)
        return self

    @property
    def by_layer(self) -> dict[str, list[nn.Parameter]]:
        """The measured parameters, by layer."""
        return {record.layer.name: record.layer.parameters for record in self._records}

    @property
    def is_paused(self) -> bool:
        """Whether the backward pass that runs is one that looks whether samples stay apart."""
        return self._apart is not None and self._apart.is_paused

    def __enter__(self) -> "SquaredNorms":
        super().__enter__()
        self._squares = dict[str, Tensor]()  # of each measured sample, by layer
        self._linked = dict[str, Tensor]()  # by layer, where samples are linked
        self._sets: list[tuple[int, Tensor]] | None = None  # of linked samples, on the device
        return self

    def squares(self, samples: int | None = None) -> Squares:
        """Return what was gathered.

        Args:
            samples: As of ``GradientMoments.moments``.

        Raises:
            ValueError: As of ``GradientMoments.moments``; if there are fewer than two samples, or
                all are linked.
        """
        self.moments(samples)
        layers = {block: own for block, own in self._blocks_of_layers().items() if own}
        names, counts = list(chain(*layers.values())), [*map(len, layers.values())]
        samples = next(one.samples for one in self._records if one.layer.name == names[0])
        self._check(next(iter(layers)), samples, len(self._squares[names[0]]))
        unit, linked, pairs = (samples / self.scale) ** 2, None, samples
        squares = unit * by_block(torch.stack([self._squares[name] for name in names]), counts)
        if self.links is not None:
            linked = unit * by_block(torch.stack([self._linked[name] for name in names]), counts)
            pairs = self.links.pairs
        return Squares(layers, squares, linked, samples, pairs)

    def _blocks_of_layers(self) -> dict[str, list[str]]:
        names = [name for name in self.by_layer if name not in self.skipped]
        return {
            block: [name for name in names if _is_within(block, name)] for block in self._blocks
        }

    def _check(self, block: str, samples: int, measured: int) -> None:
        where = f"gradient_norms: {block or 'the module'}"
        if measured < 2:
            raise ValueError(f"{where}: at least 2 samples are needed, got {measured}. Use more.")
        if self.links is not None and self.links.pairs == samples**2:
            raise ValueError(
                f"{where}: some of the {samples} samples must share nothing with each other, got "
                "all linked by Mixup or as copies. Measure larger batches."
            )

    def _gather(self, record: Any, inputs: Any, delta: Any) -> Gathered:
        layer = record.layer
        if self.is_paused or not self._gathers:
            return Gathered({})
        device, samples = layer.parameters[0].device, layer.kind.samples(inputs, delta)
        measured = min(self._measured or samples, samples)
        if self._sets is None:
            self._sets = _first_sets(self.links, measured / samples, device)
        of_pass = layer.module, layer.trainable, inputs, delta
        quiet = nullcontext() if self._apart is None else self._apart.paused()
        try:
            with torch.autocast(device.type, enabled=False), quiet:
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


def _is_within(block: str, layer: str) -> bool:
    return block in ("", layer) or layer.startswith(f"{block}.")


def _first_sets(
    links: Links | None, share: float, device: torch.device
) -> list[tuple[int, Int64[Tensor, "sets size"]]]:
    """Return sets of linked samples, on the device, and how often each kind counts.

    Args:
        links: Which samples share something.
        share: Of the sets of each kind that are measured, the first ones, and stand for all.
        device: Where they are wanted; it is not waited for.
    """
    kinds = [] if links is None else links.rows()
    return [
        (weight * len(rows), _moved(rows[: math.ceil(share * len(rows))], device))
        for weight, rows in kinds
    ]


def _moved(values: Tensor, device: torch.device) -> Tensor:
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=True)


def _linked(
    norms: Callable[[Tensor], Tensor], sets: Sequence[tuple[int, Tensor]]
) -> Float[Tensor, ""]:
    """Return the sum of the products of linked samples, by the squared norms of sets of them."""
    return sum(count * norms(rows).mean() for count, rows in sets)
