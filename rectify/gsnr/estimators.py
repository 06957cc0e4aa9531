"""Gradient signal-to-noise ratio: how far the samples of a batch agree on a direction.

For a parameter with gradient ``g_i`` on sample ``i`` it is ``mean(g)^2 / var(g)`` (Eq. 2), in
0 .. inf; a block has the mean over its parameters (Eq. 3). Pure noise does not give 0 but
about ``1 / (samples - 1)``, hence the other estimators. All follow from a few sums over the
parameters' moments, and are declared with their meaning in ``rectify.results.declared``.

The key's part of a bias named ``qkv.bias`` is not a parameter here, nor is a ``key.bias`` or
``k_proj.bias``: softmax ignores it, so its gradient is rounding noise.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float64
from torch import Tensor

from rectify.gsnr import statistics
from rectify.gsnr.statistics import Moments
from rectify.results import declared
from rectify.runtime import process, summed


@dataclass(frozen=True)
class Gsnr:
    """A GSNR, over how many parameters it was taken, and how many of them had no variance.

    ``float(...)`` gives the value; a format such as ``f"{gsnr:.3g}"`` prints it.

    >>> print(Gsnr(0.128, parameters=20, dropped=0, estimator="plain", samples=16))
    0.128 (plain; pure noise of 16 samples gives 0.06667)
    """

    value: float
    parameters: int
    dropped: int
    estimator: str = "plain"
    samples: int = 0

    @property
    def noise_floor(self) -> float:
        """What gradients without any common direction give, of independent samples.

        ``1 / (samples - 1)`` for ``plain``, and at most that for ``xi``; ``1 / (samples^2 - 1)``
        for ``unnormalised``; 0 for ``debiased``. Not a number where the samples are not known.
        """
        if self.samples < 2:
            return math.nan
        floors = {"debiased": 0.0, "unnormalised": 1 / (self.samples**2 - 1)}
        return floors.get(self.estimator, 1 / (self.samples - 1))

    def __str__(self) -> str:
        floor = f"; pure noise of {self.samples} samples gives {self.noise_floor:.4g}"
        return f"{self.value:.6g} ({self.estimator}{floor if self.samples > 1 else ''})"

    def __float__(self) -> float:
        return self.value

    def __format__(self, form: str) -> str:
        return format(self.value, form) if form else str(self)


@dataclass(frozen=True)
class Totals:
    """Sums over all parameters of a batch with variance, from which each estimator follows.

    ``signal`` and ``noise`` are in squared gradients, the ratios have no unit.
    """

    samples: int
    parameters: int
    dropped: int  # of these, without variance
    signal: float  # squared means
    noise: float  # population variances, with the divisor samples
    agreement: float  # mean products of the gradients of two samples that share nothing
    ratios: float  # of each parameter's signal to its noise
    ratios_with_xi: float  # with xi added to the noise
    ratios_of_sums: float  # with sums in place of means of squares

    @property
    def varying(self) -> int:
        """Number of parameters with variance."""
        return self.parameters - self.dropped


def plain(batches: Sequence[Totals]) -> float:
    """Return Eq. 2, averaged over the parameters and the batches as in Eq. 3."""
    return mean(batch.ratios / batch.varying for batch in batches)


def debiased(batches: Sequence[Totals]) -> float:
    """Return the squared true gradient over the true variance, each estimated without bias.

    The first is ``agreement``, which the noise of the samples does not enter; the second what it
    leaves of the mean squared gradient. Both are summed over parameters and batches before they
    are divided. For pure noise it is 0 on average, so it may be negative. Independent samples give
    ``signal / s^2 - 1 / samples`` with the sample variance ``s^2``.
    """
    agreement = math.fsum(batch.agreement for batch in batches)
    squares = math.fsum(batch.signal + batch.noise for batch in batches)
    return agreement / (squares - agreement)


def xi(batches: Sequence[Totals]) -> float:
    """Return ``plain`` with a constant added to each variance (Sun et al., 2023).

    Unlike the others it depends on the scale of the loss.
    """
    return mean(batch.ratios_with_xi / batch.varying for batch in batches)


def unnormalised(batches: Sequence[Totals]) -> float:
    """Return the mean of ``mean^2 / (sum(g^2) - mean^2)``: the sum of squares, not their mean."""
    return mean(batch.ratios_of_sums / batch.varying for batch in batches)


def mean(values: Iterable[float]) -> float:
    """Return the mean, without rounding in between."""
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


ESTIMATORS: dict[str, Callable[[Sequence[Totals]], float]] = {
    "plain": plain,
    "debiased": debiased,
    "xi": xi,
    "unnormalised": unnormalised,
}
assert list(ESTIMATORS) == list(declared.ESTIMATORS), "each declared estimator needs its function"


def gsnr(moments: Mapping[str, Moments], estimator: str = "plain", xi: float = 1e-8) -> Gsnr:
    """Return the GSNR of all parameters in ``moments``, those without variance left out.

    >>> import torch
    >>> from rectify.gsnr import Moments, gsnr
    >>> moments = Moments(torch.tensor([1.0, 0.5]), torch.tensor([2.0, 1.0]), samples=5)
    >>> gsnr({"weight": moments}).value  # the mean of 1 / 2 and 1 / 4
    0.375
    >>> print(gsnr({"weight": moments}, "debiased"))
    0.133333 (debiased; pure noise of 5 samples gives 0)

    Args:
        moments: By parameter name, as from ``gradient_moments``.
        estimator: One of ``ESTIMATORS``.
        xi: The constant of the estimator ``xi``, squared gradients.

    Raises:
        ValueError: If the estimator is unknown, there are fewer than two samples, a gradient
            was not finite, or no parameter varies.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"gsnr: estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}. "
            "Change gsnr.estimator in the config."
        )
    own = totals(moments, xi, "gsnr")
    value = ESTIMATORS[estimator]([own])
    return Gsnr(value, own.parameters, own.dropped, estimator, own.samples)


def totals(moments: Mapping[str, Moments], xi: float, where: str) -> Totals:
    """Return the sums over all parameters in ``moments``.

    Args:
        moments: By parameter name.
        xi: The constant of the estimator ``xi``, squared gradients.
        where: What an error starts with.

    Raises:
        ValueError: If there are fewer than two samples, a gradient was not finite, or no
            parameter varies.
    """
    return known(sums(moments, xi, where).tolist(), where)


def sums(
    moments: Mapping[str, Moments], xi: float, where: str
) -> Float64[Tensor, " fields_of_totals"]:
    """Return the fields of ``totals`` where the moments are, without waiting for a GPU.

    Raises:
        ValueError: If there are fewer than two samples, or all of them are linked.
    """
    samples = min((parameter.samples for parameter in moments.values()), default=0)
    if samples < 2:
        raise ValueError(f"{where}: at least 2 samples are needed, got {samples}. Use more.")
    if any(parameter.are_all_linked for parameter in moments.values()):
        raise ValueError(
            f"{where}: some of the {samples} samples must share nothing with each other, got all "
            "linked by Mixup or as copies. Measure larger batches."
        )
    flat = [
        parameter.flat(partial(_without_key_bias, name))
        for name, parameter in moments.items()
        if not name.endswith(("key.bias", "k_proj.bias"))
    ]
    if statistics.is_slow_to_start(flat[0].mean):
        flat = statistics.joined(flat)
    entries, constant, *others = torch.stack([_sums(one, xi) for one in flat]).sum(0)
    return torch.stack([torch.full_like(entries, samples), entries, constant, *others])


def known(fields: Sequence[float], where: str) -> Totals:
    """Return what ``sums`` gave, once it is known.

    Raises:
        ValueError: If a gradient was not finite, or no parameter varies.
    """
    samples, entries, constant, *others = fields
    if not all(map(math.isfinite, others)):
        raise ValueError(f"{where}: gradients must be finite, got inf or nan. Lower training.lr.")
    if constant == entries:
        raise ValueError(
            f"{where}: some gradient must vary over the samples, got none of {int(entries)}. "
            "Use different samples, or a model whose loss is not yet exactly 0; behind a head that "
            "starts at 0 the first step has no gradient, so measure fewer batches of an epoch."
        )
    return Totals(int(samples), int(entries), int(constant), *others)


def gathered(
    own: Float64[Tensor, "parts blocks fields"],
) -> Float64[Tensor, "all_parts blocks fields"]:
    """Return the ``sums`` of all processes of ``torch.distributed``, the same in each.

    Args:
        own: Those of this process, as many as of any other.
    """
    rank, ranks = process()
    table = own.new_zeros(ranks, *own.shape)
    table[rank] = own
    return summed(table).flatten(0, 1)


def _sums(moments: Moments, xi: float) -> Tensor:
    """Sum over entries: how many, how many are constant, and the sums of ``Totals``."""
    noise = moments.variance
    constant = noise == 0
    signal = moments.mean.square().masked_fill_(constant, 0)
    divisor = noise + constant  # 0 / 1 for those that are left out
    found = [
        torch.full_like(signal[0], constant.numel(), dtype=torch.float64),
        constant.sum(),
        signal.sum(),
        noise.sum(),
        moments.agreement.masked_fill(constant, 0).sum(),
        (signal / divisor).sum(),
        (signal / (divisor + xi)).sum(),
        # sum(g^2) = samples * (variance + mean^2)
        (signal / (moments.samples * divisor).add_(signal, alpha=moments.samples - 1)).sum(),
    ]
    return torch.stack([total.double() for total in found])


def _without_key_bias(name: str, values: Tensor) -> Tensor:
    if not name.endswith("qkv.bias"):
        return values.flatten()
    query, _, value = values.chunk(3)
    return torch.cat([query, value])
