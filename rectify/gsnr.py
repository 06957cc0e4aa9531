"""Gradient signal-to-noise ratio: how far the samples of a batch agree on a direction.

For a parameter with gradient ``g_i`` on sample ``i`` it is ``mean(g)^2 / var(g)`` (Eq. 2), in
0 .. inf; a ViT block has the mean over its parameters (Eq. 3). Pure noise does not give 0 but
about ``1 / (samples - 1)``, hence the other estimators. All come from the two moments that
``rectify.gradients`` gathers during an ordinary training step.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rectify.gradients import GradientMoments, Moments, across_ranks, merged

ESTIMATORS = ("plain", "debiased", "xi", "unnormalised")
LOSSES = ("total", "main", "auxiliary")

Modules = nn.Module | Mapping[str, nn.Module] | Iterable[str | nn.Module]


class GsnrValue(float):
    """A GSNR that knows over how many parameters it was taken, and how many had no variance."""

    def __new__(cls, value: float, parameters: int, dropped: int) -> "GsnrValue":
        number = super().__new__(cls, value)
        number.parameters, number.dropped = parameters, dropped
        return number

    def __getnewargs__(self) -> tuple[float, int, int]:
        return float(self), self.parameters, self.dropped


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
        modules: Parts of the model: names of modules or parameters (``blocks``, ``pos_embed``), or
            modules; a mapping's keys rename its modules.

    Raises:
        ValueError: If a name is unknown, a module holds parameters that cannot be measured or
            does not run once, a gradient is not the sum over the samples of what the module saw
            (it is tied, used outside of its module, or hooked), or samples are mixed.
    """
    _check_unmixed(model)
    watched = _watched(model, modules)
    with torch.enable_grad(), watched:
        losses = criterion(model(inputs), targets)
        if losses.shape != (len(inputs),):
            raise ValueError(
                f"gradient_moments: criterion must return {len(inputs)} losses, one per sample, "
                f'got shape {tuple(losses.shape)}. Use reduction="none".'
            )
        gradients = torch.autograd.grad(losses.mean(), watched.parameters, allow_unused=True)
        moments = watched.moments(samples=len(inputs))
        _check_complete(moments, gradients)
    return moments


def gsnr(moments: Mapping[str, Moments], estimator: str = "plain", xi: float = 1e-8) -> GsnrValue:
    """Return the GSNR of all parameters in ``moments``, those without variance left out.

    ``plain`` is Eq. 2 averaged as in Eq. 3. ``debiased`` takes the sampling noise of the mean
    off the signal: ``sum(mean^2 - s^2 / samples) / sum(s^2)`` with the sample variance ``s^2``,
    0 for pure noise (it may be negative). ``xi`` adds a constant to the variance (Sun et al.,
    2023), and so depends on the scale of the loss. ``unnormalised`` divides by the sum instead
    of the mean of squares: ``mean^2 / (sum(g^2) - mean^2)``.

    The key's part of a bias named ``qkv.bias`` is not a parameter here, nor is a ``key.bias`` or
    ``k_proj.bias``: softmax ignores it, so its gradient is rounding noise.

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
    totals = _totals(moments, xi, "gsnr")
    return GsnrValue(totals.gsnr(estimator), totals.parameters, totals.dropped)


class GsnrObserver:
    """Measures the GSNR of every block on some batches of each epoch and averages it (Eq. 3)."""

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        batches: int,
        xi: float = 1e-8,
        mode: str = "observe",
        loss: str = "total",
    ):
        """Watch ``blocks`` on ``batches`` batches per epoch, T of Eq. 3.

        Args:
            blocks: The ViT's blocks.
            batches: How many batches of an epoch are measured.
            xi: The constant of the estimator ``xi``.
            mode: ``observe`` leaves the training gradient as it is, bit by bit; ``replace`` is
                faster, and equal but for rounding.
            loss: Which loss's gradient: the ``total``, or the ``main`` or ``auxiliary`` part of
                a run with two; a run with one path has one loss, whatever is asked for.

        Raises:
            ValueError: If ``mode`` or ``loss`` is unknown, the two do not go together, or a block
                cannot be measured.
        """
        if loss not in LOSSES or (mode == "replace" and loss != "total"):
            raise ValueError(
                f"gsnr: loss must be one of {', '.join(LOSSES)}, and total where mode is replace, "
                f"got {loss!r} and {mode!r}. Change gsnr.loss or gsnr.mode in the config."
            )
        self._batches, self._xi, self._mode, self._loss = batches, xi, mode, loss
        self._blocks = {str(block): module for block, module in enumerate(blocks)}
        GradientMoments(self._blocks, mode)  # complains now rather than in the first step
        self._watched: GradientMoments | None = None
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
    def watch(self, scale: float = 1.0) -> Iterator[None]:
        """Wrap the forward and backward pass of a measured batch, or of a part of it.

        Args:
            scale: What the mean loss of the part is multiplied by before its backward pass.
        """
        with GradientMoments(self._blocks, self._mode, scale=scale) as watched:
            self._watched = watched
            yield
        self._watched = None
        part = watched.moments()
        self._moments = merged(self._moments, part) if self._moments else part

    def losses(self, main: Tensor, auxiliary: Tensor | None) -> None:
        """Take note of the mean losses of a step with two paths, before its backward pass."""
        if self._loss != "total" and auxiliary is not None:
            self._watched.measure(main if self._loss == "main" else auxiliary)

    def record(self, epoch: int, samples: int) -> None:
        """Add the batch that was watched last to the mean of ``epoch``.

        Args:
            epoch: Counted from 0.
            samples: Size of the batch, over all its parts and all processes.

        Raises:
            ValueError: If no batch of ``samples`` samples was watched since the last call.
        """
        moments, self._moments = across_ranks(self._moments), {}
        if (seen := {one.samples for one in moments.values()}) != {samples}:
            raise ValueError(
                f"gsnr: record must follow a watched batch of {samples} samples, got "
                f"{sorted(seen) or 'none'}. Call it once after each watch()."
            )
        for block in range(len(self._blocks)):
            own = {name: one for name, one in moments.items() if name.startswith(f"{block}.")}
            totals = _totals(own, self._xi, f"gsnr: epoch {epoch}, block {block}")
            values = [totals.gsnr(estimator) for estimator in ESTIMATORS]
            self._rows.append([epoch, block, totals.parameters, totals.dropped, *values])

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
        return {
            "batches": self._batches,
            "xi": self._xi,
            "mode": self._mode,
            "loss": self._loss,
            "estimators": list(ESTIMATORS),
        }


@dataclass(frozen=True)
class _Totals:
    """Sums over all parameters with variance, from which each estimator follows."""

    samples: int
    parameters: int
    dropped: int
    signal: float  # squared mean
    noise: float  # population variance
    plain: float  # their ratio, parameter by parameter
    xi: float  # with xi added to the noise
    unnormalised: float  # with the sum of squares below

    def gsnr(self, estimator: str) -> float:
        if estimator == "debiased":
            sample_variance = self.noise * self.samples / (self.samples - 1)
            return self.signal / sample_variance - 1 / self.samples
        return getattr(self, estimator) / (self.parameters - self.dropped)


def _totals(moments: Mapping[str, Moments], xi: float, where: str) -> _Totals:
    samples = min((one.samples for one in moments.values()), default=0)
    if samples < 2:
        raise ValueError(f"{where}: at least 2 samples are needed, got {samples}. Use more.")
    parts = [_parts(name, one, xi) for name, one in moments.items() if not _is_key_bias(name)]
    parameters, left, *sums = torch.stack(parts).sum(0).tolist()  # the one wait for a GPU
    if not all(map(math.isfinite, sums)):
        raise ValueError(f"{where}: gradients must be finite, got inf or nan. Lower training.lr.")
    if left == 0:
        raise ValueError(
            f"{where}: some gradient must vary over the samples, got none of {int(parameters)}. "
            "Use different samples, or a model whose loss is not yet exactly 0."
        )
    return _Totals(samples, int(parameters), int(parameters - left), *sums)


def _parts(name: str, moments: Moments, xi: float) -> Tensor:
    """Sum over one parameter's entries: how many, how many vary, and the sums of ``_Totals``."""
    mean, noise = (_without_key_bias(name, one) for one in (moments.mean, moments.variance))
    constant = noise == 0
    signal = mean.square().masked_fill_(constant, 0)
    divisor = noise + constant  # 0 / 1 for those that are left out
    sums = [
        constant.numel() * torch.ones_like(signal[0]),
        (~constant).sum(),
        signal.sum(),
        noise.sum(),
        (signal / divisor).sum(),
        (signal / (divisor + xi)).sum(),
        # sum(g^2) = samples * (variance + mean^2)
        (signal / (moments.samples * divisor).add_(signal, alpha=moments.samples - 1)).sum(),
    ]
    return torch.stack([one.double() for one in sums])


def _is_key_bias(name: str) -> bool:
    return name.endswith(("key.bias", "k_proj.bias"))


def _without_key_bias(name: str, values: Tensor) -> Tensor:
    if not name.endswith("qkv.bias"):
        return values.flatten()
    query, _, value = values.chunk(3)
    return torch.cat([query, value])


def _watched(model: nn.Module, modules: Modules) -> GradientMoments:
    if isinstance(modules, Mapping):
        return GradientMoments(modules)
    names = {module: name for name, module in model.named_modules()}
    known = {*names.values(), *(name for name, _ in model.named_parameters())}
    chosen = [modules] if isinstance(modules, str | nn.Module) else modules
    only = [one if isinstance(one, str) else names.get(one) for one in chosen]
    if unknown := [given for given, one in zip(chosen, only, strict=True) if one not in known]:
        parts = ", ".join(name for name, _ in model.named_children())
        given = repr(unknown[0]) if isinstance(unknown[0], str) else type(unknown[0]).__name__
        raise ValueError(
            "gradient_moments: modules must be parts of the model, or names of its modules or "
            f"parameters, got {given}. Its parts are {parts}."
        )
    return GradientMoments(model, only=only)


def _check_unmixed(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must treat each sample apart, got "
                f"{type(module).__name__} of a batch. Call eval() on it, or use another norm."
            )


def _check_complete(moments: Mapping[str, Moments], gradients: Sequence[Tensor]) -> None:
    """Compare the means with autograd's gradients, as far as rounding allows.

    A parameter without true gradient (a key's bias) differs by the rounding of the others.
    """
    kinds = {gradient.dtype for gradient in gradients}
    kinds |= {torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
    rounding = max(torch.finfo(kind).eps for kind in kinds)
    sizes = torch.stack([gradient.double().square().mean().sqrt() for gradient in gradients])
    apart = torch.stack(
        [
            (one.mean - gradient).double().square().mean().sqrt()
            for one, gradient in zip(moments.values(), gradients, strict=True)
        ]
    )
    allowed = max(0.01, 16 * rounding) * sizes + min(0.1, 64 * rounding) * sizes.max()
    for name, is_wrong in zip(moments, (apart > allowed).tolist(), strict=True):
        if is_wrong:
            raise ValueError(
                f"gradient_moments: the gradient of {name} must come from its own module alone, "
                "got another part. It is tied, used outside of its module, or hooked: leave it out."
            )
