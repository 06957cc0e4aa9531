"""Gradient signal-to-noise ratio: how far the samples of a batch agree on a direction.

For a parameter with gradient ``g_i`` on sample ``i`` it is ``mean(g)^2 / var(g)`` (Eq. 2), in
0 .. inf; a ViT block has the mean over its parameters (Eq. 3). Pure noise does not give 0 but
about ``1 / (samples - 1)``, hence the other estimators. Both moments are gathered during an
ordinary training step: hooks see what goes into a layer and which gradient comes back, and one
small scratch holds a few samples' gradients at a time. The step's own gradient stays as it is.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from timm.layers import LayerNorm, LayerScale
from torch import Tensor, nn

ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")
MEASURED = (nn.Linear, nn.LayerNorm, LayerNorm, LayerScale)  # no subclasses: they may differ
CPU_SCRATCH_BYTES = 2**18  # with two accumulators of its size it stays in a core's second cache
GPU_SCRATCH_BYTES = 2**25

Modules = nn.Module | Mapping[str, nn.Module] | Iterable[str | nn.Module]


@dataclass(frozen=True)
class Moments:
    """Mean and population variance of one parameter's gradient over ``samples`` samples."""

    mean: Tensor
    variance: Tensor
    samples: int


class GsnrValue(float):
    """A GSNR that knows over how many parameters it was taken, and how many had no variance."""

    def __new__(cls, value: float, parameters: int, dropped: int) -> "GsnrValue":
        number = super().__new__(cls, value)
        number.parameters, number.dropped = parameters, dropped
        return number


def gradient_moments(
    model: nn.Module,
    inputs: Tensor,
    targets: Any,
    criterion: Callable[[Any, Any], Tensor],
    modules: Modules,
) -> dict[str, Moments]:
    """Return the moments of d criterion_i / d parameter over the samples of one batch (Eq. 1).

    The model keeps its mode (``eval`` for a deterministic result) and every ``.grad``.

    Args:
        model: Called with ``inputs``.
        inputs: One sample per entry of the first axis.
        targets: Handed to ``criterion``.
        criterion: Takes (outputs, targets); returns one loss per sample, ``(batch,)``.
        modules: Parts of the model, as names or objects; a mapping's keys rename them.

    Raises:
        ValueError: If a module holds parameters that cannot be measured, or does not run once.
    """
    watched = GradientMoments(_by_name(model, modules))
    with torch.enable_grad(), watched:
        losses = criterion(model(inputs), targets)
        if losses.shape != (len(inputs),):
            raise ValueError(
                f"gradient_moments: criterion must return {len(inputs)} losses, one per sample, "
                f'got shape {tuple(losses.shape)}. Use reduction="none".'
            )
        torch.autograd.grad(losses.mean(), watched.parameters, allow_unused=True)
    return watched.moments()


class GradientMoments:
    """Context that gathers the moments of one forward and backward pass run inside it.

    The loss must be the mean of the samples' losses: the gradient that comes back then carries
    ``1 / samples``, which is taken out again. The mean is summed from the samples' gradients
    of this pass, not read from ``.grad``, so gradients accumulated before do not enter it.
    """

    def __init__(self, modules: nn.Module | Mapping[str, nn.Module]):
        """Find the layers to watch; their names start with the mapping's keys.

        Raises:
            ValueError: If a trainable parameter is shared or of an unknown layer, or none is there.
        """
        named = modules if isinstance(modules, Mapping) else {"": modules}
        self._layers = [layer for key, module in named.items() for layer in _layers(key, module)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        count, distinct = len(self.parameters), len(set(self.parameters))
        if count == 0 or distinct < count:
            raise ValueError(
                "gradient_moments: modules must hold trainable parameters, each in one place, got "
                f"{count}, {distinct} of them distinct. Name other modules, each once."
            )

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The measured parameters, in the order of ``moments``."""
        return [getattr(layer.module, name) for layer in self._layers for name in layer.trainable]

    def __enter__(self) -> "GradientMoments":
        for layer in self._layers:
            layer.runs, layer.samples, layer.sums = 0, 0, {}
            hook = functools.partial(self._forward, layer)
            self._handles.append(layer.module.register_forward_hook(hook))
        return self

    def __exit__(self, *exception: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        for layer in self._layers:
            layer.inputs = None

    def moments(self) -> dict[str, Moments]:
        """Return the moments by parameter name.

        Raises:
            ValueError: If a layer did not run exactly once, forward and backward.
        """
        samples = max(layer.samples for layer in self._layers)
        for layer in self._layers:
            if layer.runs != 1 or layer.samples != samples or samples == 0:
                raise ValueError(
                    f"gradient_moments: {layer.name or 'the module'} must run once with gradients "
                    f"of all samples, got {layer.runs} runs and gradients of {layer.samples} of "
                    f"{samples}. Watch one step of an eager model; leave out what folds the batch."
                )
        return {
            f"{layer.name}.{name}" if layer.name else name: _moments(*sums, layer.samples)
            for layer in self._layers
            for name, sums in layer.sums.items()
        }

    def _forward(self, layer: "_Layer", module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            layer.runs, layer.inputs = layer.runs + 1, args[0].detach()
            hook = functools.partial(self._backward, layer)
            self._handles.append(output.register_hook(hook))

    @torch.no_grad()
    def _backward(self, layer: "_Layer", delta: Tensor) -> None:
        inputs, layer.inputs = layer.inputs, None  # released as soon as autograd's own
        layer.samples = len(delta)
        if layer.runs == 1:
            for name in layer.trainable:
                layer.sums[name] = _sums(layer.module, name, inputs, delta)


def gsnr(moments: Mapping[str, Moments], estimator: str = "plain", xi: float = 1e-8) -> GsnrValue:
    """Return the GSNR of all parameters in ``moments``, those without variance left out.

    ``plain`` is Eq. 2 averaged as in Eq. 3. ``debiased`` takes the sampling noise of the mean
    off the signal: ``sum(mean^2 - s^2 / samples) / sum(s^2)`` with the sample variance ``s^2``,
    0 for pure noise (it may be negative). ``xi`` adds a constant to the variance (Sun et al.,
    2023), and so depends on the scale of the loss. ``unnormalised`` divides by the sum instead
    of the mean of squares: ``mean^2 / (sum(g^2) - mean^2)``.

    The key's part of a bias named ``qkv.bias`` is not a parameter here: softmax ignores it, so
    its gradient is rounding noise.

    Args:
        moments: By parameter name, as from ``gradient_moments``.
        estimator: One of ``ESTIMATORS``.
        xi: A constant, squared gradients.

    Raises:
        ValueError: If the estimator is unknown, there are fewer than two samples, a gradient
            was not finite, or no parameter varies.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(
            f"gsnr: estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}. "
            "Change gsnr.estimator in the config."
        )
    return _estimate(_ratio_parts(moments, "gsnr"), estimator, xi)


class GsnrObserver:
    """Measures the GSNR of every block on some batches of each epoch and averages it (Eq. 3)."""

    def __init__(self, blocks: Iterable[nn.Module], batches: int, xi: float = 1e-8):
        """Watch ``blocks`` on ``batches`` batches per epoch, T of Eq. 3."""
        self._batches, self._xi = batches, xi
        self._blocks = {str(block): module for block, module in enumerate(blocks)}
        GradientMoments(self._blocks)  # complains now rather than in the first step
        self._moments: dict[str, Moments] = {}
        self._rows: list[list[int | float]] = []  # of a batch: epoch, block, counts, estimates

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
    def watch(self) -> Iterator[None]:
        """Wrap the forward and backward pass of a measured batch."""
        with GradientMoments(self._blocks) as watched:
            yield
        self._moments = watched.moments()

    def record(self, epoch: int, samples: int) -> None:
        """Add the batch that was watched last to the mean of ``epoch``.

        Raises:
            ValueError: If no batch of ``samples`` samples was watched since the last call.
        """
        moments, self._moments = self._moments, {}
        if (seen := {one.samples for one in moments.values()}) != {samples}:
            raise ValueError(
                f"gsnr: record must follow a watched batch of {samples} samples, got "
                f"{sorted(seen) or 'none'}. Call it once after each watch()."
            )
        for block in range(len(self._blocks)):
            own = {name: one for name, one in moments.items() if name.startswith(f"{block}.")}
            parts = _ratio_parts(own, f"gsnr: epoch {epoch}, block {block}")
            values = [float(_estimate(parts, estimator, self._xi)) for estimator in ESTIMATORS]
            self._rows.append([epoch, block, parts.parameters, parts.dropped, *values])

    def rows(self, epoch: int) -> list[tuple[int, int, str, float, int, int]]:
        """Return epoch, block, estimator, mean GSNR, parameters, most dropped in any batch.

        Raises:
            ValueError: If the epoch was not measured on all its batches.
        """
        rows = []
        for block in range(len(self._blocks)):
            measured = [row for row in self._rows if row[:2] == [epoch, block]]
            if len(measured) != self._batches:
                raise ValueError(
                    f"gsnr: epoch {epoch} must have {self._batches} measured batches, got "
                    f"{len(measured)}. Finish the epoch first."
                )
            _, _, parameters, dropped, *values = zip(*measured, strict=True)
            for estimator, value in zip(ESTIMATORS, values, strict=True):
                mean = math.fsum(value) / self._batches
                rows.append((epoch, block, estimator, mean, max(parameters), max(dropped)))
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Return what was recorded, as numbers, strings and lists only."""
        return {**self._settings(), "rows": [list(row) for row in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` returned.

        Raises:
            ValueError: If it was recorded with other settings.
        """
        own = self._settings()
        if (saved := {key: state.get(key) for key in own}) != own:
            raise ValueError(f"gsnr: the state must have {own}, got {saved}. Train again.")
        self._rows = [list(row) for row in state["rows"]]

    def _settings(self) -> dict[str, Any]:
        return {"batches": self._batches, "xi": self._xi, "estimators": list(ESTIMATORS)}


class _Parts(NamedTuple):
    signal: Tensor  # squared mean, one entry per parameter with variance
    noise: Tensor  # population variance
    samples: int
    parameters: int
    dropped: int


def _ratio_parts(moments: Mapping[str, Moments], where: str) -> _Parts:
    """Lay the moments of all parameters end to end and leave out those without variance."""
    samples = min((one.samples for one in moments.values()), default=0)
    if samples < 2:
        raise ValueError(f"{where}: at least 2 samples are needed, got {samples}. Use more.")
    mean = torch.cat([_without_key_bias(name, one.mean) for name, one in moments.items()])
    noise = torch.cat([_without_key_bias(name, one.variance) for name, one in moments.items()])
    if not math.isfinite((mean.sum() + noise.sum()).item()):
        raise ValueError(f"{where}: gradients must be finite, got inf or nan. Lower training.lr.")
    varies = noise > 0
    if (left := int(varies.sum())) == 0:
        raise ValueError(
            f"{where}: some gradient must vary over the samples, got none of {len(noise)}. "
            "Use different samples, or a model whose loss is not yet exactly 0."
        )
    if left < len(noise):
        mean, noise = mean[varies], noise[varies]
    return _Parts(mean.square(), noise, samples, len(varies), len(varies) - left)


def _without_key_bias(name: str, values: Tensor) -> Tensor:
    if not name.endswith("qkv.bias"):
        return values.flatten()
    query, _, value = values.chunk(3)
    return torch.cat([query, value])


def _estimate(parts: _Parts, estimator: str, xi: float) -> GsnrValue:
    signal, noise, samples = parts.signal, parts.noise, parts.samples
    if estimator == "debiased":
        total = noise.sum(dtype=torch.float64) * samples / (samples - 1)
        value = (signal.sum(dtype=torch.float64) - total / samples) / total
    else:
        if estimator == "xi":
            noise = noise + xi
        elif estimator == "unnormalised":  # sum(g^2) = samples * (variance + mean^2)
            noise = samples * noise + (samples - 1) * signal
        value = (signal / noise).mean(dtype=torch.float64)
    return GsnrValue(value.item(), parts.parameters, parts.dropped)


def _moments(total: Tensor, squares: Tensor, samples: int) -> Moments:
    """Return the moments, from sums over the gradients that carry 1 / samples.

    A variance below the rounding of these sums is 0: identical samples have none.
    """
    square = squares * samples  # mean of the squares
    variance = square - total.square()
    resolution = samples * torch.finfo(square.dtype).eps
    return Moments(total, variance.masked_fill_(variance <= resolution * square, 0), samples)


def _sums(module: nn.Module, name: str, inputs: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Sum one parameter's gradients over the samples, and their squares."""
    parameter = getattr(module, name)
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    if name == "weight" and isinstance(module, nn.Linear):
        return _matrix_sums(inputs.to(delta.dtype), delta, dtype)
    if name == "weight":  # of a LayerNorm
        inputs = nn.functional.layer_norm(inputs.to(dtype), module.normalized_shape, eps=module.eps)
    by_token = delta if name == "bias" else inputs * delta
    by_token = by_token.reshape(len(delta), -1, *parameter.shape)
    gradients = by_token.sum(1, dtype=dtype)  # (batch, *shape)
    return gradients.sum(0), gradients.square().sum(0)


def _matrix_sums(inputs: Tensor, delta: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sum ``G_i = delta_i^T inputs_i`` and its square over the samples, a few at a time."""
    rows, columns = delta.shape[-1], inputs.shape[-1]
    inputs = inputs.reshape(len(delta), -1, columns)  # (batch, tokens, in)
    delta = delta.reshape(len(delta), -1, rows)  # (batch, tokens, out)
    limit = GPU_SCRATCH_BYTES if delta.is_cuda else CPU_SCRATCH_BYTES
    chunk = min(len(delta), max(1, limit // (rows * columns * delta.element_size())))
    scratch = delta.new_empty(chunk, rows, columns)
    total, squares = delta.new_zeros(2, chunk, rows, columns, dtype=dtype)
    for some_delta, some_inputs in zip(delta.split(chunk), inputs.split(chunk), strict=True):
        samples = len(some_delta)
        gradients = torch.bmm(some_delta.mT, some_inputs, out=scratch[:samples])
        total[:samples].add_(gradients)
        squares[:samples].addcmul_(gradients, gradients)
    return total.sum(0), squares.sum(0)  # (out, in) each


@dataclass
class _Layer:
    """A layer with parameters of its own, and what its last pass gave."""

    name: str
    module: nn.Module
    trainable: list[str]
    runs: int = 0
    inputs: Tensor | None = None
    samples: int = 0
    sums: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


def _layers(prefix: str, root: nn.Module) -> Iterator[_Layer]:
    for name, module in root.named_modules(prefix=prefix):
        own = module.named_parameters(recurse=False)
        trainable = [key for key, parameter in own if parameter.requires_grad]
        known = type(module) in MEASURED and not getattr(module, "inplace", False)
        if trainable and not known:
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must be a Linear, LayerNorm or "
                f"LayerScale, not in place, got {type(module).__name__}. Freeze it or leave it out."
            )
        if trainable:
            yield _Layer(name, module, trainable)


def _by_name(model: nn.Module, modules: Modules) -> Mapping[str, nn.Module]:
    if isinstance(modules, Mapping):
        return modules
    names = {module: name for name, module in model.named_modules()}
    chosen = [modules] if isinstance(modules, str | nn.Module) else modules
    objects = [model.get_submodule(one) if isinstance(one, str) else one for one in chosen]
    return {names[module]: module for module in objects}
