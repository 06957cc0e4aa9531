"""Find the known layer types, and the layers of a model that are to be measured.

A module of a known type is measured by its file in ``layers/``. Any other that holds trainable
parameters of its own is measured as a whole, with all that is inside of it, by ``generic``.
"""

import functools
import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rectify.gsnr import layers
from rectify.gsnr.contract import LayerType
from rectify.gsnr.generic import GENERIC, is_one_unit


@functools.cache
def layer_types() -> Mapping[type[nn.Module] | str, LayerType]:
    """Return how each known type of module is measured, from the files of ``layers/``."""
    known: dict[type[nn.Module] | str, LayerType] = {}
    for file in pkgutil.iter_modules(layers.__path__):
        name = f"{layers.__name__}.{file.name}"
        for value in vars(importlib.import_module(name)).values():
            is_defined_here = isinstance(value, type) and value.__module__ == name
            if is_defined_here and issubclass(value, LayerType):
                known |= dict.fromkeys(value.modules, value())
    return known


@dataclass(frozen=True)
class WatchedLayer:
    """A layer with trainable parameters, its own or, of the generic way, also its parts'."""

    name: str
    module: nn.Module
    kind: LayerType
    trainable: tuple[str, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters named by ``trainable``."""
        return [self.module.get_parameter(name) for name in self.trainable]

    @property
    def title(self) -> str:
        """The name as messages print it."""
        return self.name or "the module"

    def full_name(self, parameter: str) -> str:
        """Return the name of a parameter, which begins with the layer's."""
        return f"{self.name}.{parameter}" if self.name else parameter


@dataclass
class Choice:
    """What is asked for.

    Attributes:
        only: Names of submodules or parameters, ``""`` for all; the others are passed over.
        exclude: Names of submodules or parameters, or patterns such as ``*.bias``.
        whole: Names of modules, or patterns, that are measured as one with all their parts.
        skips: Whether a layer that cannot be measured is left out instead of refused.
        skipped: Why, by the layer's name.
    """

    only: Sequence[str] = ("",)
    exclude: Sequence[str] = ()
    whole: Sequence[str] = ()
    skips: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        """Return whether a parameter is to be measured."""
        return any(_covers(chosen, name) for chosen in self.only) and not any(
            _covers(pattern, name) for pattern in self.exclude
        )

    def reaches(self, module: str) -> bool:
        """Return whether a module lies within something that is to be measured."""
        return any(
            chosen in ("", module) or module.startswith(f"{chosen}.") for chosen in self.only
        )

    def is_whole(self, name: str, module: nn.Module) -> bool:
        """Return whether a module is measured as one."""
        return is_one_unit(module) or any(fnmatchcase(name, pattern) for pattern in self.whole)

    def check(self, modules: Mapping[str, nn.Module]) -> None:
        """Refuse an ``exclude`` or a ``whole`` that has no effect."""
        names = [
            name
            for prefix, root in modules.items()
            for name, _ in root.named_parameters(prefix, remove_duplicate=False)
        ]
        for pattern in self.exclude:
            if not any(_covers(pattern, name) for name in names):
                raise ValueError(
                    "gradient_moments: exclude must name modules or parameters, or be patterns "
                    f"that fit some, got {pattern!r}. Parameters are {', '.join(names[:3])}, ..."
                )
        parts = [
            name
            for prefix, root in modules.items()
            for name, _ in root.named_modules(prefix=prefix)
        ]
        for pattern in self.whole:
            if not any(fnmatchcase(name, pattern) for name in parts):
                raise ValueError(
                    "gradient_moments: whole must name modules, or be patterns that fit some, got "
                    f"{pattern!r}. Modules are {', '.join(filter(None, parts[:4]))}, ..."
                )


def _covers(chosen: str, name: str) -> bool:
    """Return whether a name or pattern of a module or parameter covers a parameter's name."""
    if chosen in ("", name) or name.startswith(f"{chosen}."):
        return True
    return fnmatchcase(name, chosen) or fnmatchcase(name, f"{chosen}.*")


def watched_layers(modules: Mapping[str, nn.Module], choice: Choice) -> list[WatchedLayer]:
    """Return the layers of ``modules`` that hold trainable parameters.

    Args:
        modules: By the names that their parameters' names start with.
        choice: Which of them.

    Raises:
        ValueError: If a module is compiled, runs another forward than its class, or holds
            parameters that cannot be measured; if a parameter is shared, or there is none.
    """
    watched = [
        layer for name, root in modules.items() for layer in _layers(name, root, choice, set())
    ]
    if choice.skips:
        watched = _untied(watched, choice)
    parameters = [parameter for layer in watched for parameter in layer.parameters]
    count, distinct = len(parameters), len(set(parameters))
    if count == 0 and choice.skipped:
        raise ValueError(next(iter(choice.skipped.values())))
    if count == 0 or distinct < count:
        raise ValueError(
            "gradient_moments: modules must hold trainable parameters, each in one place, got "
            f"{count}, {distinct} of them distinct. Name other modules, each once, or leave one "
            "of two tied layers out by exclude."
        )
    return watched


def _untied(watched: Sequence[WatchedLayer], choice: Choice) -> list[WatchedLayer]:
    """Leave out layers that share a parameter with another one."""
    uses = Counter(parameter for layer in watched for parameter in layer.parameters)
    tied = [layer for layer in watched if any(uses[own] > 1 for own in layer.parameters)]
    for layer in tied:
        choice.skipped[layer.name] = (
            f"gradient_moments: {layer.title} must hold its parameters alone, got some that "
            "another layer has too. Leave both out."
        )
    return [layer for layer in watched if layer not in tied]


def batch_norms(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Return the norms of a model that take a mean over the batch, by name."""
    return {
        name: module
        for name, module in model.named_modules(prefix=prefix)
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    }


def check_unmixed(modules: Mapping[str, nn.Module], choice: Choice) -> None:
    """Refuse norms that take a mean over the batch within what is measured.

    Those in front of it are no matter: given what they hand on, samples are apart.

    Raises:
        ValueError: If there is one.
    """
    for prefix, root in modules.items():
        for name, module in batch_norms(root, prefix).items():
            if choice.reaches(name):
                raise ValueError(mixed(name, module))


def mixed(name: str, module: nn.Module) -> str:
    """Return why a norm over the batch is refused."""
    return (
        f"gradient_moments: {name or 'the module'} must treat each sample separately, got "
        f"{type(module).__name__} of a batch. Call eval() on it, or use another norm."
    )


def _layers(
    name: str, module: nn.Module, choice: Choice, seen: set[nn.Module]
) -> Iterator[WatchedLayer]:
    if module in seen:
        return
    seen.add(module)
    named = module.named_parameters(name)
    inside = [full for full, parameter in named if parameter.requires_grad and choice.has(full)]
    if not inside:
        return
    start = len(name) + 1 if name else 0
    trainable = tuple(full[start:] for full in inside)
    own = tuple(key for key in trainable if "." not in key)
    whole = choice.is_whole(name, module)
    try:
        _check_eager(name, module)
        kind = _kind(name, module, own, whole=whole) if own or whole else None
    except ValueError as error:
        if not choice.skips:
            raise
        choice.skipped[name] = str(error)
        return
    if kind is not None:
        yield WatchedLayer(name, module, kind, trainable if kind is GENERIC else own)
    if kind is not GENERIC:
        for key, child in module.named_children():
            yield from _layers(f"{name}.{key}" if name else key, child, choice, seen)


def _check_eager(name: str, module: nn.Module) -> None:
    if module._compiled_call_impl is not None:  # hooks inside would silently not run
        raise ValueError(
            f"gradient_moments: {name or 'the module'} must be eager, got a compiled one. "
            "Keep the eager model and watch that one: both share their parameters."
        )


def _kind(name: str, module: nn.Module, trainable: Sequence[str], *, whole: bool) -> LayerType:
    kinds, own = layer_types(), type(module)
    kind = kinds.get(own) or kinds.get(f"{own.__module__}.{own.__qualname__}")
    if kind is None or whole or not set(trainable) <= set(kind.parameters):
        kind = GENERIC
    elif not kind.accepts(module):
        if kind.is_only_way:
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must be {kind.title}, got "
                f"{own.__name__} with {', '.join(trainable)}. Freeze it, or leave it out by "
                'exclude or unsupported="skip".'
            )
        kind = GENERIC
    if "forward" in vars(module):
        raise ValueError(
            f"gradient_moments: {name or 'the module'} must run the forward of its class, got "
            "one that was put over it. Take it off, or leave the layer out."
        )
    return kind
