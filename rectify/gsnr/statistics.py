"""Mean and variance of a parameter's gradient over the samples of a batch (Eqs. 1 and 2)."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rectify.gsnr.kernels import Sums
from rectify.runtime import process, summed


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of one parameter's gradient over ``samples`` samples.

    Both have the parameter's shape, in float32 or wider. The variance has the divisor
    ``samples``, not ``samples - 1``.

    >>> import torch
    >>> moments = Moments(mean=torch.tensor([2.0]), variance=torch.tensor([3.0]), samples=4)
    >>> moments.agreement  # 2^2 - 3 / (4 - 1)
    tensor([3.])
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
        pairs = self.samples if self.linked is None else self.linked.pairs
        return pairs == self.samples**2

    @property
    def links(self) -> "Linked":
        """``linked``, where nothing is shared each sample with itself."""
        if self.linked is not None:
            return self.linked
        return Linked(self.samples * (self.variance + self.mean.square()), self.samples)

    def flat(self, of: Callable[[Tensor], Tensor]) -> "Moments":
        """Return the moments of the entries that ``of`` takes, in a row."""
        linked = self.linked and Linked(of(self.linked.products), self.linked.pairs)
        return Moments(of(self.mean), of(self.variance), self.samples, linked)


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


def moments_of(
    sums: Mapping[str, Sums], samples: int, scale: float, pairs: int | None
) -> dict[str, Moments]:
    """Return the moments of parameters, from sums over gradients that carry ``scale / samples``.

    Args:
        sums: By parameter name; they are used up.
        samples: How many were summed over.
        scale: What the mean loss was multiplied by.
        pairs: Ordered pairs of linked samples; None if all are independent.
    """
    if not sums or not is_slow_to_start(next(iter(sums.values())).total):
        return {name: _moments(own, samples, scale, pairs) for name, own in sums.items()}
    parts = [part for part in zip(*sums.values(), strict=True) if part[0] is not None]
    flat = Sums(*(torch.cat([one.flatten() for one in part]) for part in parts))
    shapes = {name: own.total.shape for name, own in sums.items()}
    return _parted(_moments(flat, samples, scale, pairs), shapes)


def is_slow_to_start(values: Tensor) -> bool:
    """Return whether few operations on all parameters are faster than some on each.

    On a GPU an operation takes longer to start than to run; on a CPU the cache holds a parameter.
    """
    return values.is_cuda


def _moments(sums: Sums, samples: int, scale: float, pairs: int | None) -> Moments:
    """Return the moments; a variance below the rounding of the sums is 0.

    So identical samples have none.
    """
    total, squares, products = sums
    signal = total.square()
    variance = squares.mul_(samples).sub_(signal)  # mean of squares, less square of the mean
    resolution = samples * torch.finfo(squares.dtype).eps
    variance.masked_fill_(variance <= signal.mul_(resolution), 0)
    linked = None
    if pairs is not None:
        linked = Linked(products.mul_((samples / scale) ** 2), pairs)
    if scale == 1:
        return Moments(total, variance, samples, linked)
    return Moments(total / scale, variance / scale**2, samples, linked)


def _parted(flat: Moments, shapes: Mapping[str, torch.Size]) -> dict[str, Moments]:
    """Return the moments of each parameter from those of all, in their order."""
    sizes = [shape.numel() for shape in shapes.values()]

    def parted(values: Tensor) -> list[Tensor]:
        ones = zip(values.split(sizes), shapes.values(), strict=True)
        return [one.view(shape) for one, shape in ones]

    means, variances = parted(flat.mean), parted(flat.variance)
    linked = [None] * len(sizes)
    if flat.linked is not None:
        linked = [Linked(one, flat.linked.pairs) for one in parted(flat.linked.products)]
    rows = zip(means, variances, linked, strict=True)
    return {
        name: Moments(mean, variance, flat.samples, own)
        for name, (mean, variance, own) in zip(shapes, rows, strict=True)
    }


def joined(flat: Iterable[Moments]) -> list[Moments]:
    """Return the moments of several parameters as if they were one, those over the same samples.

    >>> import torch
    >>> joined([Moments(torch.ones(2), torch.ones(2), samples=4)] * 3)[0].mean.shape
    torch.Size([6])
    """
    alike = defaultdict(list)
    for one in flat:
        alike[one.samples, one.linked and one.linked.pairs].append(one)
    return [_joined(*ones) for ones in alike.values()]


def merged(first: Mapping[str, Moments], second: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of both, as of one batch (Chan et al., 1983).

    >>> import torch
    >>> from rectify.gsnr import Moments, merged
    >>> one = {"bias": Moments(torch.tensor([1.0]), torch.tensor([0.0]), samples=1)}
    >>> three = {"bias": Moments(torch.tensor([5.0]), torch.tensor([0.0]), samples=3)}
    >>> merged(one, three)["bias"]
    Moments(mean=tensor([4.]), variance=tensor([3.]), samples=4, linked=None)
    """
    return {name: _merged(moments, second[name]) for name, moments in first.items()}


def across_ranks(moments: Mapping[str, Moments]) -> dict[str, Moments]:
    """Return the moments over the samples of all processes of ``torch.distributed``.

    Every rank gets the same. Ranks must hold equally many samples: then the mean of their means
    and the mean of their variances, plus the variance of the means, are those of the whole batch.
    Without a process group, what was given.

    >>> import torch
    >>> from rectify.gsnr import Moments, across_ranks
    >>> across_ranks({"bias": Moments(torch.tensor([1.0]), torch.tensor([2.0]), samples=8)})
    {'bias': Moments(mean=tensor([1.]), variance=tensor([2.]), samples=8, linked=None)}
    """
    if process()[1] == 1:
        return dict(moments)
    flat = _joined(*(one.flat(torch.flatten) for one in moments.values()))  # of the same samples
    pairs = int(summed(torch.tensor(flat.links.pairs, device=flat.mean.device)))
    shapes = {name: one.mean.shape for name, one in moments.items()}
    return _parted(_across_ranks(flat, pairs), shapes)


def _joined(first: Moments, *others: Moments) -> Moments:
    alike = (first, *others)
    linked = first.linked and Linked(
        torch.cat([one.linked.products for one in alike]), first.linked.pairs
    )
    mean, variance = (
        torch.cat([getattr(one, name) for one in alike]) for name in ("mean", "variance")
    )
    return Moments(mean, variance, first.samples, linked)


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
