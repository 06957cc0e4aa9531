"""How far samples' gradients agree at every step of a training, by block.

The moments of ``gsnr.csv`` are gathered at some steps; squared norms of a few samples' gradients
cost so little that every step has them (``rectify.gsnr.norms``). Sums are averaged over some steps
in a row before the ratios are taken, so that these are unbiased but for the ratio itself.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from rectify.gsnr.norms import GradientNorms
from rectify.gsnr.states import check_settings
from rectify.gsnr.statistics import Moments
from rectify.runtime import summed


class NoiseRow(NamedTuple):
    """A row of the table ``NOISE``, whose declaration says what its columns mean.

    >>> from rectify.gsnr import NoiseRow
    >>> row = NoiseRow(epoch=0, step=10, block=2, quantity="debiased", value=0.02)
    >>> f"noise scale of block {row.block}: {1 / row.value:.0f} samples"
    'noise scale of block 2: 50 samples'
    """

    epoch: int
    step: int
    block: int
    quantity: str
    value: float


class NoiseState(TypedDict):
    """What was recorded, with the settings that it was recorded with."""

    blocks: list[str]
    samples: int
    steps: int
    sums: Tensor  # a row for each epoch, first step and block, and the fields of ``_Sums``


class _Part(NamedTuple):
    """What one pass gave of a block; sums over its samples, so that those of parts add up."""

    samples: float
    squares: float
    error: float  # squared
    linked: float
    pairs: float


class _Sums(NamedTuple):
    """Sums over some steps."""

    steps: float
    samples: float
    square: float
    error: float  # squared
    mean: float
    agreement: float

    def quantities(self) -> dict[str, float]:
        """Return what the table has; ratios only where they are known."""
        samples, square, _, mean, agreement = (value / self.steps for value in self[1:])
        values = {
            "square": square,
            "square_error": math.sqrt(self.error) / self.steps,
            "mean": mean,
            "agreement": agreement,
        }
        if square > agreement:
            values["debiased"] = agreement / (square - agreement)
        if square > 0:
            values["coherence"] = samples * mean / square
            values["cosine"] = math.sqrt(mean / square)
        return values


class NoiseObserver:
    """Measures every step of a training.

    >>> import torch
    >>> from rectify.gsnr import NoiseObserver
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> blocks = torch.nn.ModuleDict({"0": torch.nn.Linear(5, 5), "1": torch.nn.Linear(5, 3)})
    >>> observer = NoiseObserver(blocks, samples=4, steps=2)
    >>> for step in range(3):
    ...     inputs, labels = torch.randn(8, 5), torch.randint(3, (8,))
    ...     with observer.watch():
    ...         outputs = blocks["1"](blocks["0"](inputs).relu())
    ...         torch.nn.functional.cross_entropy(outputs, labels).backward()
    ...     observer.record(epoch=0, step=step)
    ...     blocks.zero_grad()
    >>> sorted({(row.step, row.block) for row in observer.rows()})
    [(0, 0), (0, 1), (2, 0), (2, 1)]
    """

    def __init__(
        self,
        blocks: Mapping[str, nn.Module] | nn.ModuleDict,
        samples: int,
        steps: int = 1,
        *,
        whole: tuple[str, ...] = (),
    ):
        """Watch ``blocks`` at every step.

        Args:
            blocks: The trunk's blocks in order, by name.
            samples: Of each pass that is watched, the first ones, which stand for all of it: a
                batch must be in random order.
            steps: In a row, from the start of an epoch, whose mean is one row of the table.
            whole: As of ``GradientNorms``.

        Raises:
            ValueError: If a block cannot be measured.
        """
        self._blocks, self._samples, self._steps = dict(blocks), samples, steps
        self._norms = GradientNorms(self._blocks, samples=samples, whole=whole)
        self._parts: defaultdict[str, list[_Part]] = defaultdict(list)  # of a step, by block
        self._sums: dict[tuple[int, int, int], _Sums] = {}  # by epoch, first step and block

    @contextlib.contextmanager
    def watch(
        self, scale: float = 1.0, origins: Int64[Tensor, "samples origins"] | None = None
    ) -> Iterator[None]:
        """Wrap the forward and backward pass of a batch, or of a slice of it.

        Args:
            scale: What the mean loss of the slice is multiplied by before its backward pass.
            origins: Numbers of what each sample was made from; None if all are independent.
        """
        with self._norms.of_pass(scale, origins):
            yield
        for name, norms in self._norms.norms().items():
            count = norms.samples
            error = (count * norms.error) ** 2
            part = _Part(count, count * norms.square, error, norms.linked, norms.pairs)
            self._parts[name].append(part)

    def take(self, moments: Mapping[str, Moments]) -> None:
        """Take a pass that was measured by its moments: its norms follow, of all its samples."""
        wide = torch.float64
        for block in self._blocks:
            own = [value for name, value in moments.items() if name.startswith(f"{block}.")]
            squares = sum((one.mean.square() + one.variance).sum(dtype=wide) for one in own)
            linked = sum(one.links.products.sum(dtype=wide) for one in own)
            samples, pairs = own[0].samples, own[0].links.pairs
            part = _Part(samples, samples * float(squares), 0.0, float(linked), pairs)
            self._parts[block].append(part)

    def record(self, epoch: int, step: int) -> None:
        """Add the step whose passes were watched, before anything changes its gradients.

        Args:
            epoch: Counted from 0.
            step: Of the epoch, counted from 0.

        Raises:
            ValueError: If no pass was watched since the last call.
        """
        if not self._parts:
            raise ValueError(
                "gsnr: a step must have a watched pass before it is recorded, got none. Call "
                "record once after each watch()."
            )
        first = step - step % self._steps
        means = self._means()
        table = torch.tensor([[*map(sum, zip(*self._parts[name], strict=True))]
                              for name in self._blocks], dtype=torch.float64)  # fmt: skip
        self._parts.clear()
        for block, parts in enumerate(summed(table.to(means.device)).tolist()):
            samples, squares, error, linked, pairs = parts
            mean = float(means[block])
            agreement = (samples**2 * mean - linked) / (samples**2 - pairs)
            of_step = _Sums(1, samples, squares / samples, error / samples**2, mean, agreement)
            before = self._sums.get((epoch, first, block), [0] * len(of_step))
            self._sums[epoch, first, block] = _Sums(*map(sum, zip(before, of_step, strict=True)))

    def rows(self) -> list[NoiseRow]:
        """Return all rows that were recorded."""
        return [
            NoiseRow(*place, quantity, value)
            for place, sums in self._sums.items()
            for quantity, value in sums.quantities().items()
        ]

    def state_dict(self) -> NoiseState:
        """Return what was recorded."""
        rows = [(*place, *sums) for place, sums in self._sums.items()]
        return {**self._settings(), "sums": torch.tensor(rows, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from what ``state_dict`` returned.

        Raises:
            ValueError: If it was recorded with other settings.
        """
        check_settings(self._settings(), state)
        self._sums = {
            (int(epoch), int(step), int(block)): _Sums(*sums)
            for epoch, step, block, *sums in state["sums"].tolist()
        }

    def _settings(self) -> dict[str, int | list[str]]:
        return {"blocks": list(self._blocks), "samples": self._samples, "steps": self._steps}

    def _means(self) -> Float64[Tensor, " blocks"]:
        """Return the squared norm of the batch's gradient, which is that of all processes."""
        of_blocks = [
            [_norm(one.grad) for one in block.parameters() if one.grad is not None]
            for block in self._blocks.values()
        ]
        return torch.stack([torch.stack(norms).double().square().sum() for norms in of_blocks])


def _norm(gradient: Tensor) -> Float[Tensor, ""]:
    wide = torch.promote_types(gradient.dtype, torch.float32)
    return torch.linalg.vector_norm(gradient, dtype=wide)
