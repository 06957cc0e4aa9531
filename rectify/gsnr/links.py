"""Samples of a batch that share something: partners of Mixup, copies of an image.

Their gradients are not independent, so only products of samples that share nothing tell the
squared true gradient from the noise of the batch's mean. Their sum is the squared total, less the
products of samples that are linked; those follow from squared sums over sets of samples.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations

import torch
from jaxtyping import Int64
from torch import Tensor


class Links:
    """Which samples of one batch are linked, each with itself at least.

    Attributes:
        samples: How many there are.
        pairs: Ordered pairs of linked samples.
        is_partition: Whether the batch falls into sets of samples that are all linked with each
            other and with no one else.
    """

    def __init__(
        self,
        origins: Int64[Tensor, "samples origins"],
        device: torch.device | str = "cpu",
    ):
        """Find the samples that have an origin in common.

        Two samples may share several. By inclusion and exclusion a pair counts once: the sets of
        samples with a certain origin count once, those with two certain origins are taken off,
        and so on.

        Args:
            origins: Numbers of what each sample was made from, e.g. its own image and its
                partner's.
            device: Where gradients are looked up by these samples; it is not waited for.
        """
        members: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for sample, numbers in enumerate(origins.tolist()):
            distinct = sorted(set(numbers))
            for size in range(1, len(distinct) + 1):
                for some in combinations(distinct, size):
                    members[some].append(sample)
        weights: Counter[tuple[int, ...]] = Counter()
        for some, samples in members.items():
            weights[tuple(samples)] += 1 if len(some) % 2 else -1
        sets = {samples: weight for samples, weight in weights.items() if weight}
        self._rows: dict[tuple[int, int], Tensor] = {
            kind: _moved(torch.tensor([s for s, w in sets.items() if (w, len(s)) == kind]), device)
            for kind in sorted({(weight, len(samples)) for samples, weight in sets.items()})
        }
        self.samples = len(origins)
        self.pairs = sum(weight * len(samples) ** 2 for samples, weight in sets.items())
        once = sum(map(len, sets)) == len(origins)
        self.is_partition = once and set(sets.values()) == {1}

    @property
    def are_alike(self) -> bool:
        """Whether the sets of a partition are of one size, as pairs of Mixup are."""
        return self.is_partition and len(self._rows) == 1

    def rows(self) -> Iterator[tuple[int, Int64[Tensor, "sets size"]]]:
        """Give how often sets of one size count, less those taken off, and their samples."""
        yield from ((weight, rows) for (weight, _), rows in self._rows.items())

    def folded(self, *by_sample: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
        """Give sets as samples that have the tokens of all their members.

        Args:
            by_sample: Each ``(samples, tokens, ...)``.
        """
        for weight, rows in self.rows():
            yield weight, [values[rows].flatten(1, 2) for values in by_sample]


def _moved(values: Tensor, device: torch.device | str) -> Tensor:
    """Return values of ordinary memory on a device, which is not waited for."""
    pinned = values.pin_memory() if torch.device(device).type == "cuda" else values
    return pinned.to(device, non_blocking=True)
