"""Moments of the samples' gradients, gathered in a training step (Eqs. 1 and 2).

They come from the same forward and backward pass that trains: a tap behind each layer passes the
gradient on as it is and, with what went into the layer, forms the samples' gradients. Two modes:

    observe  every gradient of the step stays as it was, bit by bit
    replace  a linear layer returns the sum of its samples' gradients as its weight gradient,
             which saves autograd's own product; equal but for rounding
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rectify.gsnr.apart import INPUTS, LOSS, Apart, likely_samples
from rectify.gsnr.calls import UnmeasurableError, samples_axis
from rectify.gsnr.generic import GENERIC
from rectify.gsnr.kernels import Sums
from rectify.gsnr.links import Links
from rectify.gsnr.lookup import Choice, WatchedLayer, check_unmixed, watched_layers
from rectify.gsnr.slots import Slots, Slotted
from rectify.gsnr.statistics import Linked, Moments, across_ranks, merged, moments_of
from rectify.gsnr.tap import Gather, Gathered
from rectify.results.declared import GSNR_MODES

__all__ = ["GradientMoments", "Linked", "Moments", "across_ranks", "merged"]

UNSUPPORTED = ("raise", "skip")

log = logging.getLogger(__name__)


class GradientMoments:
    """Context that gathers the moments of one forward and backward pass run inside it.

    The loss must be the mean of the samples' losses, times ``scale``. The means are summed from
    the samples' gradients of this pass, so gradients accumulated before do not enter them. It can
    be entered again for the next pass. In the first one it is looked at whether samples stay
    apart up to the loss, which takes about one more backward pass and changes nothing.

    >>> import torch
    >>> from rectify.gsnr import GradientMoments, gsnr
    >>> torch.manual_seed(0).initial_seed()
    0
    >>> model, inputs, labels = torch.nn.Linear(5, 3), torch.randn(8, 5), torch.arange(8) % 3
    >>> watched = GradientMoments(model)
    >>> with watched:
    ...     torch.nn.functional.cross_entropy(model(inputs), labels).backward()
    >>> moments = watched.moments()
    >>> list(moments), moments["weight"].samples
    (['weight', 'bias'], 8)
    >>> torch.allclose(moments["weight"].mean, model.weight.grad)
    True

    Attributes:
        skipped: Why a layer was left out, by its name; only with ``unsupported="skip"``.
        is_apart: Whether samples were seen to stay apart; no pass is looked at any more.
    """

    def __init__(
        self,
        modules: nn.Module | Mapping[str, nn.Module],
        mode: str = "observe",
        *,
        only: Iterable[str] = ("",),
        exclude: Iterable[str] = (),
        whole: Iterable[str] = (),
        unsupported: str = "raise",
        scale: float = 1.0,
        links: Links | None = None,
        compiled: bool = False,
    ):
        """Find the layers to watch.

        Args:
            modules: A module, or several by the names that their parameters' names start with.
            mode: One of ``GSNR_MODES``.
            only: Names of submodules or parameters; the others are not watched.
            exclude: Names of submodules or parameters, or patterns of such (``*.bias``), that
                are not watched.
            whole: Names of modules, or patterns, that are measured as one in the generic way, with
                all their parts: for a module that folds the batch, runs a part twice or ties two.
            unsupported: ``raise`` refuses what cannot be measured; ``skip`` leaves it out and
                notes why in ``skipped``.
            scale: What the mean loss is multiplied by before ``backward``, e.g. 1 / (number of
                accumulated batches); it is taken out of the moments. May be set anew between
                passes.
            links: Which samples of the pass share something; None if all are independent. May be
                set anew between passes.
            compiled: Whether the passes of which ``is_compiled`` says so may run the model as
                ``rectify.runtime.compiled`` returns it.

        Raises:
            ValueError: If the mode is unknown, a module is compiled, a trainable parameter is
                shared or cannot be measured, or none is there.
        """
        for key, value, known in (
            ("mode", mode, GSNR_MODES),
            ("unsupported", unsupported, UNSUPPORTED),
        ):
            if value not in known:
                where = " Change gsnr.mode in the config." if key == "mode" else ""
                raise ValueError(
                    f"gradient_moments: {key} must be one of {', '.join(known)}, got {value!r}."
                    f"{where}"
                )
        self.scale, self.links = scale, links
        self._modules = modules if isinstance(modules, Mapping) else {"": modules}
        self._mode, self._skips = mode, unsupported == "skip"
        self._only, self._exclude, self._whole = tuple(only), tuple(exclude), tuple(whole)
        self._may_compile, self._slots = compiled, dict[str, Slotted]()
        self.skipped: dict[str, str] = {}
        self._choice().check(self._modules)
        self._taps, self._gathers = ExitStack(), False
        self._apart: Apart | None = None
        self.is_apart, self._entered, self._is_quick = False, 0, False
        self._found: dict[str, Moments] | None = None
        self._mixing: dict[str, str] = {}
        self._records = self._new_records()
        if self.generic:
            log.info(
                "gsnr: %d layers are measured the generic way, which is slower: %s",
                len(self.generic), ", ".join(name or "the module" for name in self.generic),
            )  # fmt: skip

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The measured parameters, in the order of ``moments``."""
        return [parameter for record in self._records for parameter in record.layer.parameters]

    def of_pass(
        self, scale: float = 1.0, origins: Int64[Tensor, "samples origins"] | None = None
    ) -> "GradientMoments":
        """Take note of what the next passes are, as ``GsnrObserver.watch``; return itself."""
        first, *others = {parameter.device for parameter in self.parameters}
        device = torch.device("cpu") if others else first
        self.scale, self.links = scale, None if origins is None else Links(origins, device)
        return self

    @property
    def names(self) -> list[str]:
        """Names of ``parameters``."""
        return [
            layer.full_name(name)
            for layer in (record.layer for record in self._records)
            for name in layer.trainable
        ]

    @property
    def layers(self) -> list[nn.Module]:
        """The layers that are watched."""
        return [record.layer.module for record in self._records]

    @property
    def generic(self) -> list[str]:
        """Names of the layers that are run again sample by sample, which is exact and slower."""
        return [one.layer.name for one in self._records if one.layer.kind is GENERIC]

    @property
    def is_compiled(self) -> bool:
        """Whether the watched model may be a compiled one in the pass that is entered.

        Never in the first one, which is looked at, nor where a layer is measured the generic way;
        of linked samples only where these are sets of one size, as partners of Mixup.
        """
        return (
            self._may_compile
            and self.is_apart
            and (self.links is None or self.links.are_alike)
            and all(record.layer.kind.can_compile for record in self._records)
        )

    def __enter__(self) -> "GradientMoments":
        self._is_quick, self._found = self.is_compiled, None
        if self._is_quick:
            self._gathers = True
            for record in self._records:
                slots = self._slots_of(record.layer)
                slots.clear()
                self._link(slots)
                self._taps.enter_context(self._tap(record.layer, slots))
            return self
        check_unmixed(self._modules, self._choice())
        self._records, self._gathers, self._entered = self._new_records(), True, 0
        if not self.is_apart:
            self._apart = Apart(self._refuse)
            self._taps.enter_context(self._apart.before_backward())
        for root in self._modules.values():
            self._taps.enter_context(root.register_forward_pre_hook(self._enter, with_kwargs=True))
        for record in self._records:
            self._taps.enter_context(self._tap(record.layer, _Gather(self, record)))
        return self

    def _tap(self, layer: WatchedLayer, gather: Gather) -> AbstractContextManager[None]:
        if self._mode == "replace" and layer.kind.can_replace(layer.trainable):
            return layer.kind.replace(layer.module, layer.trainable, gather)
        return layer.kind.tap(layer.module, gather)

    def _slots_of(self, layer: WatchedLayer) -> Slotted:
        """Return the same slots for a layer in every pass: a compiled model holds on to them."""
        if layer.name not in self._slots:
            self._slots[layer.name] = Slots(layer)
        return self._slots[layer.name]

    def _link(self, slots: Slots) -> None:
        """Tell the slots which samples of the pass share something."""
        slots.links = self.links

    def _take_slots(self) -> None:
        """Take what a compiled pass returned."""
        for record in self._records:
            slots = self._slots_of(record.layer)
            record.runs, record.samples = slots.runs, slots.samples
            self._take(record, slots)
            slots.clear()

    def _take(self, record: "_Record", slots: Slots) -> None:
        """Take what a compiled pass returned of one layer."""
        record.sums = slots.take()

    def __exit__(self, *exception: object) -> None:
        self._gathers = False
        self._taps.close()
        if self._apart is not None:
            self._apart.clear()

    def watch_inputs(self, inputs: Iterable[Tensor], samples: int) -> None:
        """Let the first pass also look whether the model's inputs stay apart, those by sample."""
        for values in inputs:
            axes = [at for at, size in enumerate(values.shape[:2]) if size == samples]
            if self._apart is not None and values.requires_grad and axes:
                self._apart.note(INPUTS, values, axes[0])

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
            samples: How many each layer must have seen; by default as many as went into the
                watched modules, or into the layer that saw the most.

        Raises:
            ValueError: If a layer did not run exactly once, forward and backward, on all samples,
                or mixes them.
        """
        if self._is_quick:
            self._take_slots()
            self._is_quick = False
        rows = [record.samples for record in self._records]
        samples = samples or likely_samples(rows, self._entered)
        refused = {record.layer.name: self._refusal(record, samples) for record in self._records}
        refused = {name: said for name, said in refused.items() if said}
        self._skip(refused)
        if self._apart is not None and self._apart.is_sure:
            self.is_apart, self._apart = True, None
        if self._found is None:
            kept = [record.sums for record in self._records if record.layer.name not in refused]
            sums = {name: own for of_layer in kept for name, own in of_layer.items()}
            pairs = None if self.links is None else self.links.pairs
            self._found = moments_of(sums, samples, self.scale, pairs)
        return self._found

    def clear(self) -> None:
        """Let go of the moments of the last pass, which need twice the memory of the parameters."""
        self._records = [_Record(record.layer) for record in self._records]
        self._found = None

    def _skip(self, refused: Mapping[str, str]) -> None:
        """Leave layers out, or refuse the first one."""
        is_all = len(refused) == len(self._records)
        if refused and (not self._skips or is_all):
            raise ValueError(next(iter(refused.values())))
        self.skipped |= refused

    def _new_records(self) -> list["_Record"]:
        """Look for the layers again: some may have been frozen or compiled since the last pass."""
        choice = self._choice()
        layers = watched_layers(self._modules, choice)
        self.skipped = choice.skipped
        return [_Record(layer) for layer in layers]

    def _choice(self) -> Choice:
        return Choice(self._only, self._exclude, self._whole, self._skips)

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Take note of how many samples go into the first of the modules."""
        axis = samples_axis(module)
        sizes = [
            leaf.shape[axis]
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor) and leaf.ndim > axis
        ]
        self._entered = self._entered or next(iter(sizes), 0)
        if self._apart is not None:
            self._apart.entered = self._entered

    def _refusal(self, record: "_Record", samples: int) -> str:
        """Return what is wrong with what was gathered of a layer; nothing if all is right."""
        where = f"gradient_moments: {record.layer.title}"
        problem = record.problem or self._mixing.get(record.layer.name)
        if problem:
            return f"{where} {problem}."
        if record.runs > 1 and len(record.passes) == record.runs:
            return (
                f"{where} must be watched in one backward pass at a time, got {record.runs}. Enter "
                "the context anew for each part of a batch, with scale=1 / parts, and merge what "
                "moments() returns by rectify.gsnr.merged."
            )
        if record.runs != 1 or record.samples != samples:
            return (
                f"{where} must run once with gradients of all samples, got {record.runs} runs and "
                f"gradients of {record.samples} of {samples}. Watch one step of an eager model; "
                "leave out what folds the batch, or name the module around it in whole."
            )
        if self._apart is not None and record.layer.name not in self._apart.seen:
            return (
                f"{where} must be reached by loss.backward() within the context, got another way. "
                "Call that there, and checkpoint with use_reentrant=False."
            )
        return ""

    def _refuse(self, name: str, said: str) -> None:
        """Refuse a layer, or the loss, whose samples are not apart."""
        if name in (LOSS, INPUTS):
            raise ValueError(f"gradient_moments: {name} {said}.")
        for record in self._records:
            if record.layer.name == name:
                if not self._skips:
                    raise ValueError(f"gradient_moments: {record.layer.title} {said}.")
                self._mixing[record.layer.name] = said

    def _gather(self, record: "_Record", inputs: Any, delta: Any) -> Gathered:
        """Keep a layer's moments; return the sums, which are the gradients of the loss."""
        layer = record.layer
        if self._apart is not None and self._apart.is_paused:
            zeros = {
                name: parameter.new_zeros(()).expand_as(parameter)
                for name, parameter in zip(layer.trainable, layer.parameters, strict=True)
            }
            return Gathered(zeros)
        if not self._gathers and self._mode == "observe":
            return Gathered({})
        kind = layer.parameters[0].device.type
        samples = layer.kind.samples(inputs, delta)
        quiet = nullcontext() if self._apart is None else self._apart.paused()
        try:
            with torch.autocast(kind, enabled=False), quiet:  # the caller may be within autocast
                sums = layer.kind.all_sums(layer.module, layer.trainable, inputs, delta, self.links)
        except UnmeasurableError as error:
            record.problem = str(error)
            return Gathered({})
        if self._gathers:
            record.runs, record.samples = record.runs + 1, samples
            record.passes.add(torch._C._current_graph_task_id())
            record.sums = {layer.full_name(name): own for name, own in sums.items()}
        return Gathered({name: of_parameter.total for name, of_parameter in sums.items()})


@dataclass
class _Record:
    """What a pass gave of one layer."""

    layer: WatchedLayer
    runs: int = 0
    samples: int = 0
    sums: dict[str, Sums] = field(default_factory=dict)
    """By the full name of a parameter."""
    passes: set[int] = field(default_factory=set)
    problem: str = ""


class _Gather(Gather):
    """What a tap hands to: the context, for one layer."""

    def __init__(self, context: GradientMoments, record: _Record):
        self._context, self._record = context, record

    def __call__(self, inputs: Any, delta: Any) -> Gathered:
        return self._context._gather(self._record, inputs, delta)

    def note(self, values: Tensor, axis: int = 0, rows: int | None = None) -> None:
        if self._context._apart is not None:
            self._context._apart.note(self._record.layer.name, values, axis, rows)
