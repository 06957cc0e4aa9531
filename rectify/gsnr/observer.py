"""GSNR of every block during training: some batches of each epoch are measured and averaged."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from rectify.gsnr.estimators import ESTIMATORS, Totals, gathered, known, mean, sums
from rectify.gsnr.moments import GradientMoments, Moments, across_ranks, merged
from rectify.gsnr.noise import NoiseObserver
from rectify.gsnr.states import check_settings
from rectify.results.declared import (
    GSNR_GROUPS,
    GSNR_LABELS,
    GSNR_LOSSES,
    GSNR_MODELS,
    GSNR_PARAMETERS,
)
from rectify.runtime import Later, process


class GsnrRow(NamedTuple):
    """A row of the table ``GSNR``, whose declaration says what its columns mean.

    >>> GsnrRow(0, 1, "plain", 0.5, 20, 0, signal=1.0, noise=2.0, agreement=0.9).gsnr
    0.5
    """

    epoch: int
    block: int
    estimator: str
    gsnr: float
    parameters: int
    dropped: int
    signal: float
    noise: float
    agreement: float


class ObserverState(TypedDict):
    """What an observer has recorded, and the settings that it was recorded with."""

    blocks: list[str]
    batches: int
    xi: float
    mode: str
    loss: str
    group: str
    model: str
    labels: str
    parameters: str
    groups: int  # of a batch
    is_apart: bool  # whether the samples were seen to stay apart
    totals: list[dict[str, int | float]]  # of a group: epoch, block, fields of ``Totals``


class GsnrObserver:
    """Measures the GSNR of every block on some batches of each epoch and averages it (Eq. 3).

    >>> import torch
    >>> from rectify.gsnr import GsnrObserver
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> blocks = torch.nn.ModuleList([torch.nn.Linear(5, 5), torch.nn.Linear(5, 3)])
    >>> observer, steps = GsnrObserver(blocks, batches=2), 6
    >>> for step in range(steps):
    ...     inputs, labels = torch.randn(8, 5), torch.randint(3, (8,))
    ...     if step in observer.measured_steps(steps):
    ...         with observer.watch():
    ...             outputs = blocks[1](blocks[0](inputs).relu())
    ...             torch.nn.functional.cross_entropy(outputs, labels).backward()
    ...         observer.record(epoch=0, samples=8)
    >>> rows = [row for row in observer.rows(0) if row.estimator == "plain"]
    >>> [(row.block, row.parameters, row.gsnr > 0) for row in rows]
    [(0, 30, True), (1, 18, True)]
    """

    def __init__(
        self,
        blocks: Mapping[str, nn.Module] | nn.ModuleDict | Iterable[nn.Module],
        batches: int,
        xi: float = 1e-8,
        mode: str = "observe",
        loss: str = "total",
        *,
        group: str = "batch",
        model: str = "train",
        labels: str = "soft",
        parameters: str = "all",
        exclude: Iterable[str] = (),
        whole: Iterable[str] = (),
        unsupported: str = "raise",
        compiled: bool = False,
        noise: NoiseObserver | None = None,
    ):
        """Watch ``blocks`` on ``batches`` batches per epoch, T of Eq. 3.

        Args:
            blocks: The trunk's blocks in order, by name; without names, by number.
            batches: How many batches of an epoch are measured.
            xi: The constant of the estimator ``xi``.
            mode: ``observe`` leaves the training gradient as it is, bit by bit; ``replace`` is
                faster, and equal but for rounding.
            loss: Which loss's gradient: the ``total``, or the ``main`` or ``auxiliary`` part of
                a run with two; a run with one path has one loss, whatever is asked for.
            group: Samples that are compared: the whole ``batch``, the part of a ``process``, or a
                ``slice``, what one ``watch`` sees. The values of all are averaged.
            model: ``train`` measures the pass that trains, with dropout and stochastic depth;
                ``eval`` a pass without them, which the loop must run apart.
            labels: ``soft`` measures the batch that is trained; ``hard`` the same items without
                Mixup, CutMix and smoothed labels, in a pass that the loop must run apart.
            parameters: ``all`` of a block, or only its ``weights``: tensors of two axes and more.
            exclude: Names of modules or parameters, or patterns such as ``*.bias``, to leave out;
                they begin with the block's.
            whole: Names of modules, or patterns, that are measured as one in the generic way, with
                all their parts.
            unsupported: ``raise`` refuses what cannot be measured, ``skip`` leaves it out.
            compiled: Whether a watched pass may run a compiled model where ``is_compiled`` says so.
            noise: Takes the passes that train and are watched here, of which it sees nothing else.

        Raises:
            ValueError: If a choice is unknown, ``mode`` does not go with another one, or a block
                cannot be measured.
        """
        _check_choices(mode, loss=loss, group=group, model=model, labels=labels,
                       parameters=parameters)  # fmt: skip
        self._batches, self._xi, self._mode, self._loss = batches, xi, mode, loss
        self._group, self._parameters, self._model, self._labels = group, parameters, model, labels
        self._blocks = _by_name(blocks)
        names = {"exclude": exclude, "whole": whole, "unsupported": unsupported}
        compiled, self._noise = compiled and loss == "total", noise
        self._gradients = GradientMoments(self._blocks, mode, compiled=compiled, **names)
        _check_kept(self._blocks, self._gradients.names)
        self._parts: list[dict[str, Moments]] = []  # of a batch, as far as it was watched
        self._groups = 1  # of a batch
        self._totals: defaultdict[tuple[int, int], list[Totals]] = defaultdict(list)
        self._unread: list[tuple[int, Later]] = []  # of batches: epoch; groups, blocks, sums

    def measured_steps(self, steps_per_epoch: int) -> frozenset[int]:
        """Return the steps to measure: the middles of ``batches`` equal parts of an epoch.

        Raises:
            ValueError: If ``batches`` is not in 1 .. ``steps_per_epoch``.
        """
        if not 1 <= self._batches <= steps_per_epoch:
            raise ValueError(
                f"gsnr: batches must lie in 1..{steps_per_epoch}, the steps of an epoch, got "
                f"{self._batches}. Change gsnr.batches in the config."
            )
        halves = range(1, 2 * self._batches, 2)
        return frozenset(half * steps_per_epoch // (2 * self._batches) for half in halves)

    @contextlib.contextmanager
    def watch(
        self, scale: float = 1.0, origins: Int64[Tensor, "samples origins"] | None = None
    ) -> Iterator[None]:
        """Wrap the forward and backward pass of a measured batch, or of a part of it.

        Args:
            scale: What the mean loss of the part is multiplied by before its backward pass.
            origins: Numbers of what each sample was made from, e.g. its image and its partner's
                under Mixup; samples that have one in common are linked. None if all are
                independent.
        """
        with self._gradients.of_pass(scale, origins):
            yield
        moments = self._gradients.moments()
        self._gradients.clear()
        if self._noise is not None and not self.is_apart:
            self._noise.take(moments)
        if self._parts and self._group != "slice":
            moments = merged(self._parts.pop(), moments)
        self._parts.append(moments)

    @property
    def is_apart(self) -> bool:
        """Whether what is measured is not the pass that trains."""
        return self._model == "eval" or self._labels == "hard"

    @property
    def is_compiled(self) -> bool:
        """Whether the pass that is watched may run a compiled model; asked within ``watch``."""
        return self._gradients.is_compiled

    @property
    def is_in_eval(self) -> bool:
        """Whether the measured pass is without dropout and stochastic depth."""
        return self._model == "eval"

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters whose gradients are measured."""
        return self._gradients.parameters

    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None:
        """Take note of the mean losses of a step with two paths, before its backward pass.

        Raises:
            ValueError: If the auxiliary loss is to be measured and has no gradient.
        """
        if self._loss == "auxiliary" and auxiliary is not None and not auxiliary.requires_grad:
            raise ValueError(
                "gsnr: the auxiliary loss must have a gradient to be measured, got one without, as "
                "control scale has. Set gsnr.loss to total or main."
            )
        if self._loss != "total" and auxiliary is not None:
            self._gradients.measure(main if self._loss == "main" else auxiliary)

    def record(self, epoch: int, samples: int) -> None:
        """Add the batch that was watched last to the mean of ``epoch``.

        Args:
            epoch: Counted from 0.
            samples: Size of the batch, over all its parts and all processes.

        Raises:
            ValueError: If no batch of ``samples`` samples was watched since the last call.
        """
        parts, self._parts = self._parts, []
        if self._group == "batch":
            parts = [across_ranks(moments) for moments in parts]
        ranks = 1 if self._group == "batch" else process()[1]
        watched = ranks * sum(next(iter(part.values())).samples for part in parts)
        if watched != samples:
            raise ValueError(
                f"gsnr: record must follow a watched batch of {samples} samples, got "
                f"{watched or 'none'}. Call it once after each watch()."
            )
        self._read()  # of the batches before: nothing waits for this one
        own = self._sums(epoch, parts)
        self._groups = len(own)
        self._unread.append((epoch, Later(own)))

    def _sums(
        self, epoch: int, parts: Iterable[Mapping[str, Moments]]
    ) -> Float64[Tensor, "groups blocks fields"]:
        """Return the sums of all blocks over each group of samples."""
        own = torch.stack([
            torch.stack([sums(self._of_block(part, name), self._xi, self._where(epoch, name))
                         for name in self._blocks])
            for part in parts
        ])  # fmt: skip
        return own if self._group == "batch" else gathered(own)

    def _read(self) -> None:
        """Take in what was recorded; wait for it, if need be.

        Raises:
            ValueError: If a gradient was not finite, or no parameter of a block varies.
        """
        while self._unread:
            epoch, groups = self._unread.pop(0)
            for blocks in groups.tolist():
                for block, (name, fields) in enumerate(zip(self._blocks, blocks, strict=True)):
                    self._totals[epoch, block].append(known(fields, self._where(epoch, name)))

    @staticmethod
    def _where(epoch: int, block: str) -> str:
        return f"gsnr: epoch {epoch}, block {block}"

    def _of_block(self, moments: Mapping[str, Moments], name: str) -> dict[str, Moments]:
        """Return the moments of a block's parameters, those that are asked for."""
        least = 2 if self._parameters == "weights" else 0
        return {
            key: value
            for key, value in moments.items()
            if key.startswith(f"{name}.") and value.mean.ndim >= least
        }

    def rows(self, epoch: int) -> list[GsnrRow]:
        """Return the rows of an epoch, for each block one per estimator.

        Raises:
            ValueError: If the epoch was not measured on all its batches, a gradient was not
                finite, or no parameter of a block varies.
        """
        self._read()
        return [row for block in range(len(self._blocks)) for row in self._rows(epoch, block)]

    def _rows(self, epoch: int, block: int) -> Iterator[GsnrRow]:
        measured = self._totals.get((epoch, block), [])
        if len(measured) != self._batches * self._groups:
            raise ValueError(
                f"gsnr: epoch {epoch} must have {self._batches} measured batches, got "
                f"{len(measured) // self._groups}. Finish the epoch first."
            )
        for name, estimator in ESTIMATORS.items():
            yield GsnrRow(
                epoch,
                block,
                name,
                gsnr=estimator(measured),
                parameters=max(batch.parameters for batch in measured),
                dropped=max(batch.dropped for batch in measured),
                signal=mean(batch.signal for batch in measured),
                noise=mean(batch.noise for batch in measured),
                agreement=mean(batch.agreement for batch in measured),
            )

    def state_dict(self) -> ObserverState:
        """Return what was recorded, as numbers, strings, lists and dicts only."""
        self._read()
        batches = [
            {"epoch": epoch, "block": block, **asdict(batch)}
            for (epoch, block), measured in self._totals.items()
            for batch in measured
        ]
        seen = {"groups": self._groups, "is_apart": self._gradients.is_apart}
        return {**self._settings(), **seen, "totals": batches}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from what ``state_dict`` returned.

        Raises:
            ValueError: If it was recorded with other settings.
        """
        check_settings(self._settings(), state)
        self._groups, self._gradients.is_apart = state["groups"], state["is_apart"]
        self._totals.clear()
        self._unread.clear()
        for batch in state["totals"]:
            fields = dict(batch)
            self._totals[fields.pop("epoch"), fields.pop("block")].append(Totals(**fields))

    def _settings(self) -> dict[str, int | float | str | list[str]]:
        return {
            "blocks": list(self._blocks),
            "batches": self._batches,
            "xi": self._xi,
            "mode": self._mode,
            "loss": self._loss,
            "group": self._group,
            "model": self._model,
            "labels": self._labels,
            "parameters": self._parameters,
        }


def _check_choices(mode: str, **choices: str) -> None:
    known = {
        "loss": GSNR_LOSSES if mode != "replace" else GSNR_LOSSES[:1],
        "group": GSNR_GROUPS,
        "model": GSNR_MODELS if mode != "replace" else GSNR_MODELS[:1],
        "labels": GSNR_LABELS if mode != "replace" else GSNR_LABELS[:1],
        "parameters": GSNR_PARAMETERS,
    }
    for key, value in choices.items():
        if value not in known[key]:
            raise ValueError(
                f"gsnr: {key} must be one of {', '.join(known[key])} where mode is {mode}, got "
                f"{value!r}. Change gsnr.{key} in the config."
            )


def _check_kept(blocks: Iterable[str], measured: Sequence[str]) -> None:
    for name in blocks:
        if not any(one.startswith(f"{name}.") for one in measured):
            raise ValueError(
                f"gsnr: block {name} must keep a parameter to measure, got all of them skipped or "
                "excluded. Leave the block out."
            )


def _by_name(
    blocks: Mapping[str, nn.Module] | nn.ModuleDict | Iterable[nn.Module],
) -> dict[str, nn.Module]:
    has_names = isinstance(blocks, Mapping | nn.ModuleDict)
    named = dict(blocks) if has_names else {str(n): block for n, block in enumerate(blocks)}
    for name, block in named.items():
        if not any(parameter.requires_grad for parameter in block.parameters()):
            raise ValueError(
                f"gsnr: block {name} must have trainable parameters, got none in "
                f"{type(block).__name__}. Leave it out."
            )
    return named
