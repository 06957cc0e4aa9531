"""Find the known layer types, and the layers of a model that are to be measured."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from rectify.gsnr import layers
from rectify.gsnr.contract import LayerType


@functools.cache
def layer_types() -> Mapping[type[nn.Module], LayerType]:
    """Return how each known type of module is measured, from the files of ``layers/``."""
    known: dict[type[nn.Module], LayerType] = {}
    for file in pkgutil.iter_modules(layers.__path__):
        name = f"{layers.__name__}.{file.name}"
        for value in vars(importlib.import_module(name)).values():
            is_defined_here = isinstance(value, type) and value.__module__ == name
            if is_defined_here and issubclass(value, LayerType):
                known |= dict.fromkeys(value.modules, value())
    return known


@dataclass(frozen=True)
class WatchedLayer:
    """A layer with trainable parameters of its own."""

    name: str
    module: nn.Module
    kind: LayerType
    trainable: tuple[str, ...]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters named by ``trainable``."""
        return [getattr(self.module, name) for name in self.trainable]


def watched_layers(modules: Mapping[str, nn.Module], only: Sequence[str]) -> list[WatchedLayer]:
    """Return the layers of ``modules`` that hold trainable parameters.

    Args:
        modules: By the names that their parameters' names start with.
        only: Names of submodules or parameters, ``""`` for all; the others are passed over.

    Raises:
        ValueError: If a module is compiled, runs another forward than its class, or holds
            parameters that cannot be measured; if a parameter is shared, or there is none.
    """
    watched = [layer for name, root in modules.items() for layer in _layers(name, root, only)]
    parameters = [parameter for layer in watched for parameter in layer.parameters]
    count, distinct = len(parameters), len(set(parameters))
    if count == 0 or distinct < count:
        raise ValueError(
            "gradient_moments: modules must hold trainable parameters, each in one place, got "
            f"{count}, {distinct} of them distinct. Name other modules, each once."
        )
    return watched


def _layers(prefix: str, root: nn.Module, only: Sequence[str]) -> Iterator[WatchedLayer]:
    for name, module in root.named_modules(prefix=prefix):
        trainable = tuple(
            key
            for key, parameter in module.named_parameters(recurse=False)
            if parameter.requires_grad and _is_chosen(f"{name}.{key}" if name else key, only)
        )
        if module._compiled_call_impl is not None:  # hooks inside would silently not run
            raise ValueError(
                f"gradient_moments: {name or 'the module'} must be eager, got a compiled one. "
                "Keep the eager model and watch that one: both share their parameters."
            )
        if trainable:
            yield WatchedLayer(name, module, _kind(name, module, trainable), trainable)


def _is_chosen(name: str, only: Sequence[str]) -> bool:
    return any(chosen in ("", name) or name.startswith(f"{chosen}.") for chosen in only)


def _kind(name: str, module: nn.Module, trainable: Sequence[str]) -> LayerType:
    kind = layer_types().get(type(module))
    if kind is None or not set(trainable) <= set(kind.parameters) or not kind.accepts(module):
        *titles, last = dict.fromkeys(known.title for known in layer_types().values())
        raise ValueError(
            f"gradient_moments: {name or 'the module'} must be {', '.join(titles)} or {last}, got "
            f"{type(module).__name__} with {', '.join(trainable)}. Freeze it or leave it out."
        )
    if "forward" in vars(module):
        raise ValueError(
            f"gradient_moments: {name or 'the module'} must run the forward of its class, got "
            "one that was put over it. Take it off, or leave the layer out."
        )
    return kind
