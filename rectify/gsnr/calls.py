"""One call of a module: what went in and came out, and how to repeat it on samples alone."""

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

HALVES = (torch.float16, torch.bfloat16)
MASKS_OF_TOKENS = ("attn_mask", "mask", "memory_mask", "src_mask", "tgt_mask")
"""Arguments of torch's attention that all samples share where they have two equal axes."""


class UnmeasurableError(ValueError):
    """A layer cannot be measured; the text ends a sentence that begins with its name."""


def samples_axis(module: nn.Module) -> int:
    """Return which axis of a module's inputs holds the samples, as its ``batch_first`` says."""
    own = [module, getattr(module, "self_attn", None)]
    own += list(getattr(module, "layers", None) or [])[:1]  # of torch's encoder and decoder
    if isinstance(own[-1], nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        own.append(own[-1].self_attn)
    known = nn.MultiheadAttention | nn.RNNBase | nn.Transformer
    return int(any(isinstance(one, known) and not one.batch_first for one in own))


def versions(leaves: Sequence[Any]) -> list[int]:
    """Return how often each tensor was changed in place."""
    return [leaf._version if isinstance(leaf, Tensor) else 0 for leaf in leaves]


@dataclass(frozen=True)
class Random:
    """The states of the random generators, and of autocast, before a call."""

    states: Mapping[torch.device, Tensor]
    autocasts: Mapping[str, torch.dtype | None]

    @classmethod
    def now(cls, leaves: Sequence[Any]) -> "Random":
        """Return those of the devices of ``leaves``."""
        devices = {torch.device("cpu"), *(x.device for x in leaves if isinstance(x, Tensor))}
        kinds = {device.type for device in devices}
        return cls(
            {device: _state(device) for device in devices if device.type in ("cpu", "cuda")},
            {
                kind: torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
                for kind in kinds
            },
        )

    def was_used(self) -> bool:
        """Return whether random numbers have been drawn since."""
        return any(not torch.equal(state, _state(at)) for at, state in self.states.items())

    @contextlib.contextmanager
    def again(self, *, is_random: bool) -> Iterator[None]:
        """Draw the same numbers again, and cast the same way."""
        with contextlib.ExitStack() as stack:
            for kind, dtype in self.autocasts.items():
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=dtype is not None))
            if is_random:
                others = [at for at in self.states if at.type == "cuda"]
                stack.enter_context(torch.random.fork_rng(others))
                for at, state in self.states.items():
                    if at.type == "cuda":
                        torch.cuda.set_rng_state(state, at)
                    else:
                        torch.set_rng_state(state)
            yield


class Again(NamedTuple):
    """What repeating a call on sets of samples gave, sets first."""

    gradients: dict[str, Tensor]
    outputs: tuple[Tensor, ...]


class Call:
    """A module's inputs and outputs, with the axis of the samples of each tensor."""

    def __init__(
        self,
        module: nn.Module,
        args: tuple,
        kwargs: dict,
        outputs: Sequence[Any],
        places: Sequence[int],
        draw: Random,
        before: Sequence[int],
    ):
        """Take note of a call.

        Args:
            module: What was called.
            args: With these.
            kwargs: And these.
            outputs: The leaves of what came out.
            places: Those of them that have a gradient.
            draw: What the call drew from.
            before: ``versions`` of the inputs' leaves before the call.
        """
        leaves, self._form = tree_flatten((args, kwargs))
        self.draw, self.is_random, self.places = draw, draw.was_used(), tuple(places)
        main = samples_axis(module)
        sizes = [x.shape[main] for x in leaves if isinstance(x, Tensor) and x.ndim > main]
        self.samples = sizes[0] if sizes else 0
        axis = _Axis(self.samples, main, isinstance(module, nn.RNNBase))
        known = _masks(module, args, kwargs)
        self._axes = [
            known.get(id(x), axis.of(x)) if isinstance(x, Tensor) else None for x in leaves
        ]
        self._out_axes = [axis.of(outputs[place]) for place in places]
        self._edges = [
            (x, at)
            for x, at in [
                *zip(leaves, self._axes, strict=True),
                *zip((outputs[place] for place in places), self._out_axes, strict=True),
            ]
            if at is not None and x.requires_grad
        ]
        by_sample = [place for place, at in enumerate(self._axes) if at is not None]
        self._doubtful = [place for place in by_sample[1:] if not leaves[place].requires_grad]
        self._leaves = [x.detach() if isinstance(x, Tensor) else x for x in leaves]
        self._versions = list(before)
        self._outputs = [outputs[place].detach().clone() for place in places]

    def take_differentiable(self) -> list[tuple[Tensor, int]]:
        """Return the tensors by sample that have a gradient, with their axis, and forget them."""
        edges, self._edges = self._edges, []
        return edges

    def check(self, delta: Sequence[Tensor | None]) -> None:
        """Refuse a call that cannot be repeated.

        Args:
            delta: Gradient by what came out; None where no loss depends on it.

        Raises:
            UnmeasurableError: If it is not known which are the samples, or they are there no more.
        """
        used = zip(self._out_axes, delta, strict=True)
        if self.samples == 0 or any(axis is None for axis, own in used if own is not None):
            shapes = ", ".join(str(tuple(values.shape)) for values in self._outputs)
            raise UnmeasurableError(
                f"must take samples and put out an entry for each, got {self.samples} in and "
                f"{shapes} out. Leave out what folds the batch"
            )
        if versions(self._leaves) != self._versions:
            raise UnmeasurableError(
                "must keep what went in, got an input that was changed in place. Change a copy"
            )

    def again(
        self,
        module: nn.Module,
        names: Sequence[str],
        delta: Sequence[Tensor | None],
        rows: Int64[Tensor, "sets size"],
    ) -> Again:
        """Return the gradients of sets of samples, each set run as a batch of its own.

        An input without a gradient, such as angles of positions, may have as many rows as there
        are samples by accident: if the outputs are not what they were, it is taken as shared.

        Args:
            module: What was called.
            names: Of the parameters.
            delta: Gradient by what came out.
            rows: The samples of each set.

        Raises:
            UnmeasurableError: If the outputs are not what they were.
        """
        run = partial(self._again, module, names, delta, rows)
        try:
            return run()
        except UnmeasurableError:
            if not self._doubtful:
                raise
        for place in self._doubtful:
            self._axes[place] = None
        self._doubtful = []
        return run()

    def _again(
        self,
        module: nn.Module,
        names: Sequence[str],
        delta: Sequence[Tensor | None],
        rows: Int64[Tensor, "sets size"],
    ) -> Again:
        is_half = any(module.get_parameter(name).dtype in HALVES for name in names)
        widen = _widened if is_half else lambda values: values
        inputs = [
            widen(_rows(x, axis, rows))
            for x, axis in zip(self._leaves, self._axes, strict=True)
            if axis is not None
        ]
        wanted, deltas = [], []
        for place, axis, values in zip(self.places, self._out_axes, delta, strict=True):
            if values is not None:
                wanted.append(place)
                deltas.append(_rows(values, axis, rows))
        fixed = {f"module.{name}": widen(p.detach()) for name, p in module.named_parameters()}
        fixed |= {f"module.{name}": widen(b.detach().clone()) for name, b in module.named_buffers()}
        own = {f"module.{name}": fixed.pop(f"module.{name}") for name in names}

        def outputs(own: dict[str, Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
            filled = iter(inputs)
            leaves = [
                x if axis is None else next(filled)
                for x, axis in zip(self._leaves, self._axes, strict=True)
            ]
            args, kwargs = tree_unflatten(leaves, self._form)
            found = tree_leaves(functional_call(_Bare(module), {**fixed, **own}, args, kwargs))
            return tuple(found[place] for place in wanted)

        with self.draw.again(is_random=self.is_random):
            found = _by_set(outputs, own, inputs, deltas)
        self._compare(found.outputs, wanted, rows)
        short = {name.removeprefix("module."): values for name, values in found.gradients.items()}
        return Again({name: short[name] for name in names}, found.outputs)

    def _compare(
        self, outputs: Sequence[Tensor], wanted: Sequence[int], rows: Int64[Tensor, "sets size"]
    ) -> None:
        for place, again in zip(wanted, outputs, strict=True):
            number = self.places.index(place)
            before = _rows(self._outputs[number], self._out_axes[number], rows)
            if again.shape == before.shape:
                error = (again.double() - before.double()).norm()
                is_other = bool(error > _tolerance(before) * before.double().norm())
            else:
                is_other = True
            if is_other:
                drawn = "draws random numbers that cannot be repeated" if self.is_random else ""
                raise UnmeasurableError(
                    "must give each sample what it gives in its batch, got something else for a "
                    f"sample alone: it {drawn or 'mixes samples'}. "
                    f"{'Call eval() on it' if drawn else 'Use one that treats samples apart'}"
                )


class _Axis(NamedTuple):
    """How to find the axis of the samples."""

    samples: int
    main: int
    has_states: bool  # of a recurrent network: layers before samples

    def of(self, values: Tensor) -> int | None:
        """Return the axis of a tensor; None if the samples share it."""
        others = (1,) if self.has_states else ()
        for axis in (self.main, *others):
            if values.ndim > axis and values.shape[axis] == self.samples:
                return axis
        if self.main == 1 and values.ndim > 0 and values.shape[0] == self.samples:
            return 0  # weights of attention have samples first everywhere
        return None


class _Bare(nn.Module):
    """A module without the hooks on it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


def _masks(module: nn.Module, args: tuple, kwargs: dict) -> dict[int, int | None]:
    """Return the axis of the samples of masks whose name tells it, by their ``id``."""
    try:
        named = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    except TypeError:  # the module itself will say so
        return {}
    axes: dict[int, int | None] = {}
    for name, mask in named.items():
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            continue
        if name.endswith("key_padding_mask"):
            axes[id(mask)] = 0
        elif name in MASKS_OF_TOKENS and mask.shape[0] == mask.shape[1]:
            axes[id(mask)] = None
    return axes


def _by_set(
    outputs: Callable[[dict[str, Tensor], Sequence[Tensor]], tuple[Tensor, ...]],
    own: dict[str, Tensor],
    inputs: Sequence[Tensor],
    deltas: Sequence[Tensor],
) -> Again:
    """Differentiate set by set: all at once, or in turn where an operation cannot be mapped."""

    def one(inputs: Sequence[Tensor], deltas: Sequence[Tensor]) -> Again:
        found, back = vjp(lambda own: outputs(own, inputs), own)
        (gradients,) = back(tuple(d.to(y.dtype) for d, y in zip(deltas, found, strict=True)))
        return Again(gradients, found)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*performance drop.*")
            return vmap(one, randomness="different")(list(inputs), list(deltas))
    except RuntimeError:
        parts = [
            _alone(outputs, own, [x[number] for x in inputs], [d[number] for d in deltas])
            for number in range(len(deltas[0]))
        ]
        gradients = {name: torch.stack([part.gradients[name] for part in parts]) for name in own}
        return Again(
            gradients, tuple(map(torch.stack, zip(*(p.outputs for p in parts), strict=True)))
        )


def _alone(
    outputs: Callable[[dict[str, Tensor], Sequence[Tensor]], tuple[Tensor, ...]],
    own: dict[str, Tensor],
    inputs: Sequence[Tensor],
    deltas: Sequence[Tensor],
) -> Again:
    leaves = {name: values.detach().requires_grad_() for name, values in own.items()}
    try:
        with torch.enable_grad():
            found = outputs(leaves, inputs)
            cotangents = [d.to(y.dtype) for d, y in zip(deltas, found, strict=True)]
            gradients = torch.autograd.grad(
                found, list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
            )
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise UnmeasurableError(
            f"must run on one sample alone, got: {said.rstrip('.')}. Leave it out"
        ) from error
    return Again(
        dict(zip(leaves, gradients, strict=True)), tuple(values.detach() for values in found)
    )


def _rows(values: Tensor, axis: int, rows: Int64[Tensor, "sets size"]) -> Tensor:
    """Return the samples of each set: sets first, the samples where they were behind it."""
    taken = values.index_select(axis, rows.flatten().to(values.device))
    return taken.unflatten(axis, rows.shape).movedim(axis, 0)


def _widened(values: Tensor) -> Tensor:
    return values.float() if values.dtype in HALVES else values


def _tolerance(values: Tensor) -> float:
    """Return what rounding may differ by, where products are of other sizes."""
    if values.dtype in HALVES:
        return 0.05
    if values.dtype == torch.float32 and values.is_cuda:
        return 5e-3  # TF32
    return 1e-4 if values.dtype == torch.float32 else 1e-5


def _state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
