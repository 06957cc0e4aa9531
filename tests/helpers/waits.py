"""What makes a program wait for its device, counted on a CPU."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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


class Strays(TorchDispatchMode):
    """Context that notes each operation on a device that is given values of the CPU.

    To be used with tensors on ``meta``, which have no values: what would have to wait for a device
    to look at them fails there by itself. A single number of the CPU is no stray: it is copied
    with the operation.

    >>> import torch
    >>> with Strays() as strays:
    ...     _ = torch.ones(3, device="meta")[torch.arange(2)]
    >>> strays.calls
    ['index']

    Attributes:
        calls: Names of the operations, in their order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(
        self,
        function: Callable,
        types: tuple[type, ...],
        args: tuple = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in tensors if one.ndim or one.is_meta}
        if len(devices) > 1:
            self.calls.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))
