"""Moments of one batch, for any model: asked for by name, and checked against autograd."""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from rectify.gsnr.calls import samples_axis
from rectify.gsnr.lookup import batch_norms, mixed
from rectify.gsnr.moments import GradientMoments, Moments

Modules = nn.Module | Mapping[str, nn.Module] | str | Iterable[str | nn.Module]
Inputs = Tensor | Mapping[str, Any] | Sequence[Tensor]
Outputs = TypeVar("Outputs")
Targets = TypeVar("Targets")


def gradient_moments(
    model: nn.Module,
    inputs: Inputs,
    targets: Targets,
    criterion: Callable[[Outputs, Targets], Tensor],
    modules: Modules,
    origins: Int64[Tensor, "samples origins"] | None = None,
    *,
    exclude: Iterable[str] = (),
    whole: Iterable[str] = (),
    unsupported: str = "raise",
) -> dict[str, Moments]:
    """Return the moments of d criterion_i / d parameter over the samples of one batch (Eq. 1).

    The model keeps its mode (``eval`` for a deterministic result) and every ``.grad``.

    >>> import torch
    >>> from rectify.gsnr import gradient_moments, gsnr
    >>> model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.GELU(), torch.nn.Linear(4, 3))
    >>> criterion = torch.nn.CrossEntropyLoss(reduction="none")
    >>> moments = gradient_moments(model, torch.randn(6, 5), torch.arange(6) % 3, criterion, ["0"])
    >>> list(moments), gsnr(moments).samples
    (['0.weight', '0.bias'], 6)

    Args:
        model: Called with ``inputs``.
        inputs: One sample per entry of the first axis, of each tensor; several in a tuple. A
            mapping whose keys are arguments of the model is handed over as these (batches of
            transformers), any other as it is.
        targets: Handed to ``criterion``.
        criterion: Takes (outputs, targets); returns one loss per sample, ``(batch,)``.
        modules: Parts of the model: names of modules or parameters (``blocks``, ``pos_embed``), or
            modules; a mapping's keys rename its modules.
        origins: Numbers of what each sample was made from, e.g. its image and its partner's under
            Mixup; samples that have one in common are linked. None if all are independent. Only
            ``debiased`` depends on it.
        exclude: Names of modules or parameters, or patterns such as ``*.bias``, to leave out.
        whole: Names of modules, or patterns, that are measured as one in the generic way, with all
            their parts: for a module that folds the batch, runs a part twice or ties two.
        unsupported: ``raise`` refuses what cannot be measured, ``skip`` leaves it out.

    Raises:
        ValueError: If a name is unknown, a module holds parameters that cannot be measured or
            does not run once, a gradient is not the sum over the samples of what the module saw
            (it is tied, used outside of its module, or hooked), or samples are mixed behind it.
    """
    options = {"exclude": exclude, "whole": whole, "unsupported": unsupported}
    watched = _watched(model, modules, options).of_pass(origins=origins)
    inputs, tensors = _differentiable(inputs)
    with torch.enable_grad(), watched, _norms_in_front(model, watched.layers) as mixes:
        losses = criterion(_outputs(model, inputs), targets)
        samples = _samples(model, tensors, losses)
        if not mixes:
            watched.watch_inputs(tensors, samples)
        gradients = torch.autograd.grad(losses.mean(), watched.parameters, allow_unused=True)
        moments = watched.moments(samples=samples)
    by_parameter = dict(zip(watched.names, gradients, strict=True))
    _check_complete(moments, by_parameter, skips=unsupported == "skip")
    return moments


@contextlib.contextmanager
def _norms_in_front(model: nn.Module, layers: Iterable[nn.Module]) -> Iterator[bool]:
    """Give whether a model has norms over the batch, and refuse those that run behind a layer.

    Raises:
        ValueError: When one runs after a layer that is measured.
    """
    norms = batch_norms(model)
    entered: list[nn.Module] = []

    def refuse(name: str, module: nn.Module) -> None:
        if entered:
            raise ValueError(mixed(name, module))

    with contextlib.ExitStack() as hooks:
        for layer in layers if norms else ():
            hook = layer.register_forward_pre_hook(lambda module, _: entered.append(module))
            hooks.enter_context(hook)
        for name, norm in norms.items():
            hook = norm.register_forward_pre_hook(lambda module, _, name=name: refuse(name, module))
            hooks.enter_context(hook)
        yield bool(norms)


def _differentiable(inputs: Inputs) -> tuple[Inputs, list[Tensor]]:
    """Return the inputs with gradients, where they can have any, to see whose loss they reach."""
    leaves, form = tree_flatten(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    with torch.enable_grad():
        leaves = [
            leaf.detach().requires_grad_().clone()  # which may be changed in place
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
            else leaf
            for leaf in leaves
        ]
    return tree_unflatten(leaves, form), [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _outputs(model: nn.Module, inputs: Inputs) -> object:
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    if isinstance(inputs, Mapping) and _are_arguments(model, inputs):
        return model(**inputs)
    return model(inputs)


def _are_arguments(model: nn.Module, inputs: Mapping[str, object]) -> bool:
    """Return whether the keys are what the model's forward calls its arguments."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return set(inputs) <= named or (takes_any and bool(named & set(inputs)))


def _samples(model: nn.Module, tensors: Sequence[Tensor], losses: Tensor) -> int:
    axis = samples_axis(model)
    sizes = [values.shape[axis] for values in tensors if values.ndim > axis]
    if not sizes or losses.shape != (sizes[0],):
        raise ValueError(
            f"gradient_moments: criterion must return {sizes[0] if sizes else 'some'} losses, one "
            f'per sample, got shape {tuple(losses.shape)}. Use reduction="none", and the mean over '
            "the tokens of a sample."
        )
    return sizes[0]


def _watched(model: nn.Module, modules: Modules, options: Mapping[str, Any]) -> GradientMoments:
    if isinstance(modules, Mapping):
        return GradientMoments(modules, **options)
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
    return GradientMoments(model, only=only, **options)


def _check_complete(
    moments: dict[str, Moments], gradients: Mapping[str, Tensor | None], *, skips: bool
) -> None:
    """Compare the means with autograd's gradients, as far as rounding allows.

    A parameter without true gradient (a key's bias) differs by the rounding of the others.
    """
    of_loss = {
        name: torch.zeros_like(own.mean) if gradients[name] is None else gradients[name]
        for name, own in moments.items()
    }
    kinds = {gradient.dtype for gradient in of_loss.values()}
    kinds |= {torch.get_autocast_dtype(d) for d in ("cpu", "cuda") if torch.is_autocast_enabled(d)}
    rounding = max(torch.finfo(kind).eps for kind in kinds)
    sizes = torch.stack([_root_mean_square(gradient) for gradient in of_loss.values()])
    errors = torch.stack(
        [_root_mean_square(own.mean - of_loss[name]) for name, own in moments.items()]
    )
    allowed = max(0.01, 16 * rounding) * sizes + min(0.1, 64 * rounding) * sizes.max()
    wrong = dict(zip(moments, (errors > allowed).tolist(), strict=True))
    for name, is_wrong in wrong.items():
        if is_wrong and skips and not all(wrong.values()):
            del moments[name]
        elif is_wrong:
            raise ValueError(
                f"gradient_moments: the gradient of {name} must come from its own module alone, "
                "got another part. It is tied, used outside of its module, or hooked: leave it out."
            )


def _root_mean_square(values: Tensor) -> Tensor:
    return values.double().square().mean().sqrt()
