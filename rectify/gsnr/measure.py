"""Moments of one batch, for any model: asked for by name, and checked against autograd."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rectify.gsnr.links import Links
from rectify.gsnr.moments import GradientMoments, Moments

Modules = nn.Module | Mapping[str, nn.Module] | str | Iterable[str | nn.Module]
Outputs = TypeVar("Outputs")
Targets = TypeVar("Targets")


def gradient_moments(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Tensor],
    targets: Targets,
    criterion: Callable[[Outputs, Targets], Tensor],
    modules: Modules,
    origins: Int64[Tensor, "samples origins"] | None = None,
) -> dict[str, Moments]:
    """Return the moments of d criterion_i / d parameter over the samples of one batch (Eq. 1).

    The model keeps its mode (``eval`` for a deterministic result) and every ``.grad``.

    Args:
        model: Called with ``inputs``.
        inputs: One sample per entry of the first axis, of each tensor.
        targets: Handed to ``criterion``.
        criterion: Takes (outputs, targets); returns one loss per sample, ``(batch,)``.
        modules: Parts of the model: names of modules or parameters (``blocks``, ``pos_embed``), or
            modules; a mapping's keys rename its modules.
        origins: Numbers of what each sample was made from, e.g. its image and its partner's under
            Mixup; samples that have one in common are linked. None if all are independent. Only
            ``debiased`` depends on it.

    Raises:
        ValueError: If a name is unknown, a module holds parameters that cannot be measured or
            does not run once, a gradient is not the sum over the samples of what the module saw
            (it is tied, used outside of its module, or hooked), or samples are mixed.
    """
    _check_unmixed(model)
    watched = _watched(model, modules)
    watched.links = None if origins is None else Links(origins)
    samples = len(inputs if isinstance(inputs, Tensor) else next(iter(inputs.values())))
    with torch.enable_grad(), watched:
        losses = criterion(model(inputs), targets)
        if losses.shape != (samples,):
            raise ValueError(
                f"gradient_moments: criterion must return {samples} losses, one per sample, "
                f'got shape {tuple(losses.shape)}. Use reduction="none".'
            )
        gradients = torch.autograd.grad(losses.mean(), watched.parameters, allow_unused=True)
        moments = watched.moments(samples=samples)
        _check_complete(moments, gradients)
    return moments


def _watched(model: nn.Module, modules: Modules) -> GradientMoments:
    if isinstance(modules, Mapping):
        return GradientMoments(modules)
    names = {module: name for name, module in model.named_modules()}
    known = {*names.values(), *(name for name, _ in model.named_parameters())}
    chosen = [modules] if isinstance(modules, str | nn.Module) else list(modules)
    only = [names.get(part) if isinstance(part, nn.Module) else part for part in chosen]
    unknown = [part for part, name in zip(chosen, only, strict=True) if name not in known]
    if unknown:
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
                f"gradient_moments: {name or 'the module'} must treat each sample separately, got "
                f"{type(module).__name__} of a batch. Call eval() on it, or use another norm."
            )


def _check_complete(moments: Mapping[str, Moments], gradients: Sequence[Tensor]) -> None:
    """Compare the means with autograd's gradients, as far as rounding allows.

    A parameter without true gradient (a key's bias) differs by the rounding of the others.
    """
    kinds = {gradient.dtype for gradient in gradients}
    kinds |= {torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
    rounding = max(torch.finfo(kind).eps for kind in kinds)
    sizes = torch.stack([_root_mean_square(gradient) for gradient in gradients])
    errors = torch.stack(
        [
            _root_mean_square(parameter.mean - gradient)
            for parameter, gradient in zip(moments.values(), gradients, strict=True)
        ]
    )
    allowed = max(0.01, 16 * rounding) * sizes + min(0.1, 64 * rounding) * sizes.max()
    for name, is_wrong in zip(moments, (errors > allowed).tolist(), strict=True):
        if is_wrong:
            raise ValueError(
                f"gradient_moments: the gradient of {name} must come from its own module alone, "
                "got another part. It is tied, used outside of its module, or hooked: leave it out."
            )


def _root_mean_square(values: Tensor) -> Tensor:
    return values.double().square().mean().sqrt()
