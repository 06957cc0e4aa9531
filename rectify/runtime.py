"""Randomness, device and precision: decided here, passed on from here.

Seeds for each purpose are derived from the run's seed by a hash, so that no two purposes
share a random stream and adding one leaves the others as they were.
"""

import atexit
import contextlib
import hashlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rectify.errors import PassingError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a seed in 0 .. 2**63-1 for one purpose, e.g. ``seed_for(0, "augment", epoch)``."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose."""
    return torch.Generator().manual_seed(seed_for(seed, *purpose))


def start(threads: int, gpus: int = 0) -> torch.device:
    """Fix the number of threads, make torch deterministic, and return the device to use.

    A process that torchrun or srun started joins the others and takes a device of its own; the
    threads are divided among those of a machine.

    Args:
        threads: CPU threads of this job.
        gpus: How many GPUs torch must be able to use; with 0 the CPU will do. ``RECTIFY_CPU=1``
            lets the CPU stand for them, to try a cluster's jobs where there is none.

    Raises:
        PassingError: If there are fewer; another machine may have them.
    """
    _check_gpus(gpus)
    torch.set_num_threads(own_threads(threads))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses to be that
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a twentieth of a small step
    torch.backends.cudnn.benchmark = False
    on_gpu = torch.cuda.is_available()
    if "LOCAL_RANK" not in os.environ:
        return torch.device("cuda" if on_gpu else "cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    atexit.register(torch.distributed.destroy_process_group)
    return device


def device_text(device: torch.device) -> str:
    """Return what a device is, for people."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"the CPU, {torch.get_num_threads()} threads"


def _check_gpus(count: int) -> None:
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if usable < count and not os.environ.get("RECTIFY_CPU"):
        raise PassingError(
            f"runtime: as many GPUs must be usable as a job asks for by device_gpus, {count}, got "
            f"{usable}. Look at `nvidia-smi`, or set device_gpus to 0 to compute on the CPU."
        )


def own_threads(threads: int) -> int:
    """Return the threads of this process, of those that it shares with others on this machine."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def process() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def summed(values: Tensor) -> Tensor:
    """Return the sum of the values of all processes that train together."""
    if process()[1] > 1:
        torch.distributed.all_reduce(values)
    return values


@contextlib.contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a signal asked this process to stop.

    SLURM sends SIGTERM before it kills a job, and the warning that its profile asks for; until
    the end of the context neither ends the process.
    """
    asked = []
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(one, lambda number, _: asked.append(number)) for one in signals]
    try:
        yield lambda: bool(asked)
    finally:
        for one, handler in zip(signals, before, strict=True):
            signal.signal(one, handler)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which forward passes run; ``float32`` changes nothing.

    Raises:
        ValueError: If the precision is neither ``float32`` nor ``bfloat16``.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"runtime: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}. "
            "Change training.precision in the config."
        )
    if PRECISIONS[precision] is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=PRECISIONS[precision])


class Later:
    """Numbers that a device may still be computing; whoever reads them waits for nothing after.

    >>> import torch
    >>> Later(torch.tensor([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """

    def __init__(self, values: Tensor):
        """Start to copy ``values``, of any shape, as they will be once all before is computed."""
        self._values = values.detach().to("cpu", non_blocking=values.is_cuda)
        self._event = None
        if values.is_cuda:
            self._event = torch.cuda.current_stream(values.device).record_event()

    def tolist(self) -> list:
        """Return the numbers."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()


def compiled(model: nn.Module, **options: Any) -> Callable[..., Any]:
    """Return a compiled model that may also run within ``GradientMoments(..., compiled=True)``.

    By default compiled code does not look whether a module has hooks that it had not before; here
    it does, so that measured and other passes have each their own code.

    Args:
        model: It stays as it is; both share their parameters.
        options: Of ``torch.compile``.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return torch.compile(model, **options)


def seed_globals(seed: int, *purpose: str | int) -> None:
    """Seed the global generators of Python, NumPy and torch for one purpose.

    timm's augmentations, Mixup, stochastic depth and constructors draw from them. Seeding
    them for every step makes a resumed run repeat an uninterrupted one bit by bit.
    """
    derived = seed_for(seed, *purpose)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    if torch.cuda.is_available():
        torch.manual_seed(derived)
    else:  # it would also note for a GPU where it was called, 0.3 ms each time
        torch.default_generator.manual_seed(derived)
