"""What makes a program wait for its device, counted on a CPU."""

from collections.abc import Callable, Mapping
from typing import Any

from torch.overrides import TorchFunctionMode

WAITING = frozenset(
    {
        *("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"),
        *("equal", "allclose", "is_nonzero", "nonzero", "unique", "masked_select", "__contains__"),
    }
)
"""Functions of torch and methods of tensors that return what the device has yet to compute."""


class Waits(TorchFunctionMode):
    """Context that notes each call for which a device would be waited for.

    >>> import torch
    >>> with Waits() as waits:
    ...     if torch.ones(()) > 0:
    ...         float(torch.ones(3).sum())
    3.0
    >>> waits.calls
    ['__bool__', '__float__']

    Attributes:
        calls: Names of the functions, in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(
        self,
        function: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in WAITING:
            self.calls.append(name)
        return function(*args, **(kwargs or {}))
