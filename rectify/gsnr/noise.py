"""How far samples' gradients agree at every step of a training, by block.

The moments of ``gsnr.csv`` are gathered at some steps; squared norms of a few samples' gradients
cost so little that every step has them (``rectify.gsnr.norms``). Sums are averaged over some steps
in a row before the ratios are taken, so that these are unbiased but for the ratio itself. They
stay on the device, which is waited for once in an epoch and when they are asked for.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from rectify.gsnr.squares import SquaredNorms, by_block, check_finite
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
    pass_samples: int  # of a pass in which samples were seen to stay apart; 0 before
    sums: Tensor  # a row for each epoch, first step and block, and the fields of ``_Sums``


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
        compiled: bool = False,
    ):
        """Watch ``blocks`` at every step.

        Args:
            blocks: The trunk's blocks in order, by name.
            samples: Of each pass that is watched, the first ones, which stand for all of it: a
                batch must be in random order.
            steps: In a row, from the start of an epoch, whose mean is one row of the table.
            whole: As of ``GradientNorms``.
            compiled: Whether a watched pass may run a compiled model where ``is_compiled`` says so.

        Raises:
            ValueError: If a block cannot be measured.
        """
        self._blocks, self._samples, self._steps = dict(blocks), samples, steps
        self._norms = SquaredNorms(self._blocks, samples, whole=whole, compiled=compiled)
        self._parts: list[Tensor] = []  # of a step, by block: sums over its passes' samples
        self._pending: dict[tuple[int, int], Tensor] = {}  # by epoch and first step, on the device
        self._read = torch.empty(0, 3 + len(_Sums._fields), dtype=torch.float64)  # and before
        for name in self._blocks:
            if not any(own.startswith(f"{name}.") for own in self._norms.names):
                raise ValueError(
                    f"gsnr: block {name} must have trainable parameters, got none. Leave it out."
                )

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
        _, of_samples, samples, linked, pairs = self._norms.squares()
        measured = of_samples.shape[1]
        squares = samples * of_samples.mean(1)
        error = samples * (samples - measured) / measured * of_samples.var(1)
        self._note(samples, pairs, squares, error, linked)

    @property
    def is_compiled(self) -> bool:
        """Whether the pass that is watched may run a compiled model; asked within ``watch``."""
        return self._norms.is_compiled

    def take(self, moments: Mapping[str, Moments]) -> None:
        """Take a pass that was measured by its moments: its norms follow, of all its samples."""
        by_name = {
            block: [value for name, value in moments.items() if name.startswith(f"{block}.")]
            for block in self._blocks
        }
        measured, counts = list(chain(*by_name.values())), [*map(len, by_name.values())]
        means = _norms([one.mean for one in measured]).square()
        variances = _norms([one.variance for one in measured], 1)  # sums: none is below 0
        count, links = measured[0].samples, measured[0].linked
        squares = linked = count * by_block(means + variances, counts)
        if links is not None:
            products = [one.linked.products.sum(dtype=torch.float64) for one in measured]
            linked = by_block(torch.stack(products), counts)
        pairs = count if links is None else links.pairs
        self._note(count, pairs, squares, torch.zeros_like(squares), linked)

    def _note(self, samples: int, pairs: int, *sums: Float64[Tensor, " blocks"]) -> None:
        """Take note of a pass: squares of all its samples, their squared error, and products."""
        counts = (torch.full_like(sums[0], count) for count in (samples, pairs))
        self._parts.append(torch.stack([*counts, *sums], 1))

    def record(self, epoch: int, step: int) -> None:
        """Add the step whose passes were watched, before anything changes its gradients.

        Args:
            epoch: Counted from 0.
            step: Of the epoch, counted from 0.

        Raises:
            ValueError: If no pass was watched since the last call, or a gradient of an epoch
                before was not finite.
        """
        if not self._parts:
            raise ValueError(
                "gsnr: a step must have a watched pass before it is recorded, got none. Call "
                "record once after each watch()."
            )
        sums = summed(torch.stack(self._parts).sum(0)).unbind(1)
        samples, pairs, squares, error, linked = sums
        self._parts.clear()
        mean = self._mean()
        agreement = (samples.square() * mean - linked) / (samples.square() - pairs)
        error, square = error / samples.square(), squares / samples
        of_step = torch.stack(  # as in ``_Sums``
            [torch.ones_like(mean), samples, square, error, mean, agreement], 1
        )
        if self._pending and next(reversed(self._pending))[0] != epoch:
            self._fetch()
        place = epoch, step - step % self._steps
        self._pending[place] = self._pending.get(place, 0) + of_step

    def rows(self) -> list[NoiseRow]:
        """Return all rows that were recorded.

        Raises:
            ValueError: If a gradient was not finite.
        """
        return [
            NoiseRow(int(epoch), int(step), int(block), quantity, value)
            for epoch, step, block, *sums in self._fetch().tolist()
            for quantity, value in _Sums(*sums).quantities().items()
        ]

    def state_dict(self) -> NoiseState:
        """Return what was recorded.

        Raises:
            ValueError: If a gradient was not finite.
        """
        seen = self._norms.samples if self._norms.is_apart else 0
        return {**self._settings(), "pass_samples": seen, "sums": self._fetch()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from what ``state_dict`` returned.

        Raises:
            ValueError: If it was recorded with other settings.
        """
        check_settings(self._settings(), state)
        self._norms.samples = state["pass_samples"]
        self._norms.is_apart = self._norms.samples > 0
        before, last = state["sums"][: -len(self._blocks)], state["sums"][-len(self._blocks) :]
        self._read, self._pending = before, {}
        if len(last):  # may get more steps
            device = next(next(iter(self._blocks.values())).parameters()).device
            epoch, step, _ = last[0, :3].int().tolist()
            self._pending[epoch, step] = last[:, 3:].to(device)

    def _fetch(self) -> Float64[Tensor, "rows fields"]:
        """Return all sums as the state has them, those that are pending in one transfer."""
        if not self._pending:
            return self._read
        places = [(*place, block) for place in self._pending for block in range(len(self._blocks))]
        sums = torch.cat(list(self._pending.values())).cpu()
        for place, is_finite in zip(places, sums.isfinite().all(1).tolist(), strict=True):
            check_finite(self._where(*place), is_finite)
        rows = torch.cat([torch.tensor(places, dtype=torch.float64), sums], 1)
        everything = torch.cat([self._read, rows])
        self._read = everything[: -len(self._blocks)]
        self._pending = dict([self._pending.popitem()])  # may get more steps
        return everything

    def _where(self, epoch: int, first: int, block: int) -> str:
        last = first + self._steps - 1
        steps = f"steps {first} to {last}" if self._steps > 1 else f"step {first}"
        return f"gsnr: epoch {epoch}, {steps}, block {list(self._blocks)[block]}"

    def _settings(self) -> dict[str, int | list[str]]:
        return {"blocks": list(self._blocks), "samples": self._samples, "steps": self._steps}

    def _mean(self) -> Float64[Tensor, " blocks"]:
        """Return the squared norm of the batch's gradient, which is that of all processes."""
        of_blocks = [
            [one.grad for one in block.parameters() if one.grad is not None]
            for block in self._blocks.values()
        ]
        return by_block(_norms(list(chain(*of_blocks))).square(), [*map(len, of_blocks)])


def _norms(tensors: list[Tensor], order: int = 2) -> Float64[Tensor, " tensors"]:
    """Return a norm of each tensor, of all in few operations."""
    return torch.stack(torch._foreach_norm(tensors, order, dtype=torch.float64))
