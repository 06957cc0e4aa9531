"""Mean and variance of a parameter's gradient over the samples of a batch (Eqs. 1 and 2).

They come from the same forward and backward pass that trains: a tap behind each layer passes the
gradient on as it is and, with what went into the layer, forms the samples' gradients. Two modes:

    observe  every gradient of the step stays as it was, bit by bit
    replace  a linear layer returns the sum of its samples' gradients as its weight gradient,
             which saves autograd's own product; equal but for rounding
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from rectify.gsnr.kernels import Sums
from rectify.gsnr.links import Links
from rectify.gsnr.lookup import WatchedLayer, watched_layers
from rectify.results.declared import GSNR_MODES
from rectify.runtime import process, summed


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of one parameter's gradient over ``samples`` samples.

    Both have the parameter's shape, in float32 or wider. The variance has the divisor
    ``samples``, not ``samples - 1``.
    """

    mean: Tensor
    variance: Tensor
    samples: int
    linked: "Linked | None" = None
    """Of samples that share something; None where all are independent."""

    @property
    def agreement(self) -> Tensor:
        """The mean product of two samples' gradients, over the pairs that share nothing.

        It estimates the squared true gradient without bias: the squared ``mean`` also has the
        noise of the samples in it. Not finite if all samples are linked with each other.
        """
        if self.linked is None:
            return self.mean.square() - self.variance / (self.samples - 1)
        products = self.samples**2 * self.mean.square() - self.linked.products
        return products / (self.samples**2 - self.linked.pairs)

    @property
    def are_all_linked(self) -> bool:
        """Whether no two samples are independent of each other."""
        return self.links.pairs == self.samples**2

    @property
    def links(self) -> "Linked":
        """``linked``, where nothing is shared each sample with itself."""
        if self.linked is not None:
            return self.linked
        return Linked(self.samples * (self.variance + self.mean.square()), self.samples)


@dataclass(frozen=True)
class Linked:
    """Sums over the ordered pairs of samples that share something, each with itself among them.

    Attributes:
        products: Of the two gradients.
        pairs: How many there are.
    """

    products: Tensor
    pairs: int

    def __add__(self, other: "Linked") -> "Linked":
        return Linked(self.products + other.products, self.pairs + other.pairs)


class GradientMoments:
    """Context that gathers the moments of one forward and backward pass run inside it.

    The loss must be the mean of the samples' losses, times ``scale``. The means are summed from
    the samples' gradients of this pass, so gradients accumulated before do not enter them. It can
    be entered again for the next pass.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        mode: str = "observe",
        *,
        only: Iterable[str] = ("",),
        scale: float = 1.0,
        links: Links | None = None,
    ):
        """Find the layers to watch.

        Args:
            modules: A module, or several by the names that their parameters' names start with.
            mode: One of ``GSNR_MODES``.
            only: Names of submodules or parameters; the others are not watched.
            scale: What the mean loss is multiplied by before ``backward``, e.g. 1 / (number of
                accumulated batches); it is taken out of the moments. May be set anew between
                passes.
            links: Which samples of the pass share something; None if all are independent. May be
                set anew between passes.

        Raises:
            ValueError: If the mode is unknown, a module is compiled, a trainable parameter is
                shared or of an unknown layer, or none is there.
        """
        if mode not in GSNR_MODES:
            raise ValueError(
                f"gradient_moments: mode must be one of {', '.join(GSNR_MODES)}, got {mode!r}. "
                "Change gsnr.mode in the config."
            )
        self.scale, self.links = scale, links
        self._modules = modules if isinstance(modules, Mapping) else {"": modules}
        self._mode, self._only = mode, tuple(only)
        self._taps, self._gathers = ExitStack(), False
        self._records = self._new_records()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The measured parameters, in the order of ``moments``."""
        return [parameter for record in self._records for parameter in record.layer.parameters]

    def __enter__(self) -> "GradientMoments":
        self._records, self._gathers = self._new_records(), True
        for record in self._records:
            layer, gather = record.layer, partial(self._gather, record)
            if self._mode == "replace" and layer.kind.can_replace(layer.trainable):
                tap = layer.kind.replace(layer.module, layer.trainable, gather)
            else:
                tap = layer.kind.tap(layer.module, gather)
            self._taps.enter_context(tap)
        return self

    def __exit__(self, *exception: object) -> None:
        self._gathers = False
        self._taps.close()

    def measure(self, loss: Tensor) -> None:
        """Gather the moments of ``loss``, one part of a step's loss, in a pass of its own.

        The graph is kept for the step's own backward pass, which is not gathered any more.
        Only for ``observe``: ``replace`` measures the gradient that trains.
        """
        loss = self.scale * loss
        torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
        self._gathers = False

    def moments(self, samples: int | None = None) -> dict[str, Moments]:
        """Return the moments by parameter name.

        Args:
            samples: How many each layer must have seen; by default as many as the one that saw
                the most.

        Raises:
            ValueError: If a layer did not run exactly once, forward and backward, on all samples.
        """
        samples = samples or max(record.samples for record in self._records)
        for record in self._records:
            if record.runs != 1 or record.samples != samples:
                raise ValueError(
                    f"gradient_moments: {record.layer.name or 'the module'} must run once with "
                    f"gradients of all samples, got {record.runs} runs and gradients of "
                    f"{record.samples} of {samples}. Watch one step of an eager model; leave out "
                    "what folds the batch."
                )
        return {
            f"{record.layer.name}.{name}" if record.layer.name else name: moments
            for record in self._records
            for name, moments in record.moments.items()
        }

    def clear(self) -> None:
        """Let go of the moments of the last pass, which need twice the memory of the parameters."""
        self._records = [_Record(record.layer) for record in self._records]

    def _new_records(self) -> list["_Record"]:
        """Look for the layers again: some may have been frozen or compiled since the last pass."""
        return [_Record(layer) for layer in watched_layers(self._modules, self._only)]

    def _gather(
        self, record: "_Record", inputs: Tensor | None, delta: Tensor
    ) -> Mapping[str, Tensor]:
        """Keep a layer's moments; return the sums, which are the gradients of the loss."""
        if not self._gathers and self._mode == "observe":
            return {}
        layer = record.layer
        with torch.autocast(delta.device.type, enabled=False):  # the caller's backward may be in it
            sums = {
                name: layer.kind.sums(layer.module, name, inputs, delta, self.links)
                for name in layer.trainable
            }
        if self._gathers:
            record.runs, record.samples = record.runs + 1, len(delta)
            record.moments = {
                name: self._moments(of_parameter, len(delta)) for name, of_parameter in sums.items()
            }
        return {name: of_parameter.total for name, of_parameter in sums.items()}

    def _moments(self, sums: Sums, samples: int) -> Moments:
        """Return the moments, from sums over gradients that carry ``scale / samples``.

        A variance below the rounding of these sums is 0: identical samples have none.
        """
        total, squares, products = sums
        signal = total.square()
        variance = squares.mul_(samples).sub_(signal)  # mean of squares, less square of the mean
        resolution = samples * torch.finfo(squares.dtype).eps
        variance.masked_fill_(variance <= signal.mul_(resolution), 0)
        linked = None
        if self.links is not None:
            linked = Linked(products.mul_((samples / self.scale) ** 2), self.links.pairs)
        if self.scale == 1:
            return Moments(total, variance, samples, linked)
        return Moments(total / self.scale, variance / self.scale**2, samples, linked)


@dataclass
class _Record:
    """What a pass gave of one layer."""

    layer: WatchedLayer
    runs: int = 0
    samples: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)


def merged(first: Mapping[str, Moments], second: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of both, as of one batch (Chan et al., 1983)."""
    return {name: _merged(moments, second[name]) for name, moments in first.items()}


def across_ranks(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of all processes of ``torch.distributed``.

    Every rank gets the same. Ranks must hold equally many samples: then the mean of their means
    and the mean of their variances, plus the variance of the means, are those of the whole batch.
    Without a process group, what was given.
    """
    if process()[1] == 1:
        return dict(moments)
    first = next(iter(moments.values()))  # all have the same links
    pairs = int(summed(torch.tensor(first.links.pairs, device=first.mean.device)))
    return {name: _across_ranks(of_rank, pairs) for name, of_rank in moments.items()}


def _merged(first: Moments, second: Moments) -> Moments:
    samples = first.samples + second.samples
    share = second.samples / samples
    difference = second.mean - first.mean
    mean = first.mean + share * difference
    within = torch.lerp(first.variance, second.variance, share)
    between = share * (1 - share) * difference.square()
    are_independent = first.linked is None and second.linked is None
    linked = None if are_independent else first.links + second.links
    return Moments(mean, within + between, samples, linked)


def _across_ranks(of_rank: Moments, pairs: int) -> Moments:
    _, ranks = process()
    mean = summed(of_rank.mean.clone()) / ranks
    variance = summed(of_rank.variance + (of_rank.mean - mean).square()) / ranks
    linked = Linked(summed(of_rank.links.products.clone()), pairs)
    return Moments(mean, variance, of_rank.samples * ranks, linked)
